{{/* Settings of Facegrid (docs/configuration.md). Only the control pod reads them: they travel to the actors. */}}
{{- define "facegrid.settings" -}}
- name: FACEGRID_HOME
  value: /var/lib/facegrid
- name: FACEGRID_RUNTIME
  value: ray
- name: FACEGRID_RAY_ADDRESS
  value: $(GRID_HEAD)
- name: FACEGRID_RAY_DETACHED
  value: "true"
- name: FACEGRID_DATA_PORT
  value: "7600"
- name: FACEGRID_PROBE_PORT
  value: "7601"
{{- if .Values.dataPlane.tls.enabled }}
- name: FACEGRID_DATA_CERTIFICATE
  value: /etc/facegrid/data-tls/tls.crt
- name: FACEGRID_DATA_PRIVATE_KEY
  value: /etc/facegrid/data-tls/tls.key
- name: FACEGRID_DATA_AUTHORITY
  value: /etc/facegrid/data-tls/ca.crt
{{- end }}
{{- with include "facegrid.catalogEnv" . }}
{{ . }}
{{- end }}
{{- with .Values.encryption }}
{{- if .secretName }}
- name: FACEGRID_ENCRYPTION_KEY_FILE
  value: /etc/facegrid/encryption/{{ .secretKey }}
{{- end }}
{{- if .kms }}
- name: FACEGRID_ENCRYPTION_KMS
  value: {{ .kms | quote }}
{{- end }}
{{- end }}
- name: FACEGRID_MODELS
  value: /models
{{- with .Values.facegrid }}
- name: FACEGRID_DETECTOR
  value: {{ .detector | quote }}
- name: FACEGRID_EMBEDDER
  value: {{ .embedder | quote }}
- name: FACEGRID_ERASURE_HOURS
  value: {{ .erasureHours | quote }}
- name: FACEGRID_AUDIT_DAYS
  value: {{ .auditDays | quote }}
- name: FACEGRID_RECALL_SHARE
  value: {{ .recallShare | quote }}
{{- with .openShards }}
- name: FACEGRID_OPEN_SHARDS
  value: {{ int . | quote }}
{{- end }}
{{- with .threads }}
- name: FACEGRID_THREADS
  value: {{ int . | quote }}
{{- end }}
{{- with .bulkSources }}
- name: FACEGRID_BULK_SOURCES
  value: {{ join " " . | quote }}
{{- end }}
{{- with .traceEndpoint }}
- name: FACEGRID_TRACE_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The catalog's database. SQLite in the home needs no setting. */}}
{{- define "facegrid.catalogEnv" -}}
{{- with .Values.catalog -}}
{{- if eq .type "external" -}}
- name: FACEGRID_CATALOG
  valueFrom:
    secretKeyRef: {name: {{ .external.secretName }}, key: {{ .external.secretKey }}}
{{- else if eq .type "trial" -}}
- name: FACEGRID_CATALOG
  value: postgresql://facegrid@{{ include "facegrid.fullname" $ }}-postgres:5432/facegrid
# Read by libpq, so that the URL needs no password.
- name: PGPASSWORD
  valueFrom:
    secretKeyRef: {name: {{ .trial.secretName }}, key: password}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Object store, for pods that read photos from it or write snapshots to it. */}}
{{- define "facegrid.s3Env" -}}
{{- with .Values.s3 -}}
{{- range $name := list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
{{- if $.Values.s3.secretName }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef: {name: {{ $.Values.s3.secretName }}, key: {{ $name }}}
{{- end }}
{{- end }}
{{- with .region }}
- name: AWS_REGION
  value: {{ . | quote }}
{{- end }}
{{- with .endpoint }}
- name: AWS_ENDPOINT_URL_S3
  value: {{ . | quote }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* Files that are the same, at the same path, in every pod that runs Facegrid: networks, certificates between pods. */}}
{{- define "facegrid.sharedMounts" -}}
{{- if ne .Values.models.source "none" }}
- {name: models, mountPath: /models, readOnly: true}
{{- end }}
{{- if .Values.dataPlane.tls.enabled }}
- {name: data-tls, mountPath: /etc/facegrid/data-tls, readOnly: true}
{{- end }}
{{- end -}}

{{- define "facegrid.sharedVolumes" -}}
{{- if eq .Values.models.source "claim" }}
- name: models
  persistentVolumeClaim: {claimName: {{ .Values.models.claimName }}, readOnly: true}
{{- else if eq .Values.models.source "pull" }}
- name: models
  emptyDir: {sizeLimit: 2Gi}
{{- end }}
{{- if .Values.dataPlane.tls.enabled }}
- name: data-tls
  secret: {secretName: {{ .Values.dataPlane.tls.secretName }}, defaultMode: 288}
{{- end }}
{{- end -}}

{{/* Fetches the networks into /models, where no volume has them: files of another SHA-256 than expected are refused. */}}
{{- define "facegrid.modelsInit" -}}
{{- if eq .Values.models.source "pull" -}}
- name: models
  image: {{ include "facegrid.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [/bin/sh, -ec]
  args:
    - |
      facegrid models pull {{ .Values.facegrid.detector }}
      facegrid models pull {{ .Values.facegrid.embedder }}
  env:
    - {name: HOME, value: /home/facegrid}
    - {name: FACEGRID_CACHE, value: /models}
  securityContext: {{- include "facegrid.containerSecurity" dict | nindent 4 }}
  resources:
    requests: {cpu: 100m, memory: 512Mi, ephemeral-storage: 2Gi}
    limits: {memory: 512Mi, ephemeral-storage: 2Gi}
  volumeMounts:
    - {name: models, mountPath: /models}
    - {name: tmp, mountPath: /tmp}
    - {name: user, mountPath: /home/facegrid}
{{- end -}}
{{- end -}}
