"""Bulk enrollment: photos and embeddings of folders, archives, tables and buckets into a gallery, as a job.

`job.py` and `reembed.py` are the kinds of jobs; `docs/bulk-enroll.md` says what they promise.
"""
