//! A small gallery that keeps its rows twice: in an `Index` and in plain vectors, for the oracle.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use _native::kernels::LANES;
use _native::{CHECKSUM_BLOCK, Index, Layout, crc32c_blocks};

pub const LISTS: usize = 4;

/// Numbers that look random and follow from the seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 16
    }

    /// Coarse ones are small whole numbers, so that many scores are equal.
    pub fn floats(&mut self, len: usize, is_coarse: bool) -> Vec<f32> {
        let fine = |value: u64| value as f32 / 500.0 - 1.0;
        (0..len).map(|_| if is_coarse { (self.next() % 2) as f32 } else { fine(self.next() % 1000) }).collect()
    }

    /// Coarse ones have few bits, so that many distances are equal.
    pub fn codes(&mut self, len: usize, is_coarse: bool) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8 & if is_coarse { 1 } else { 0xff }).collect()
    }
}

pub struct Gallery {
    pub index: Index,
    pub keys: Vec<u64>,
    floats: Vec<f32>,
    codes: Vec<u8>,
    lists: Vec<u16>,
    /// True for rows that lie in order of their lists.
    is_listed: Vec<bool>,
    deleted: Vec<bool>,
    dim: usize,
    planes: usize,
    /// Of each segment its rows and its files: floats, and keys if it is sealed.
    segments: Vec<(Range<usize>, Vec<PathBuf>)>,
}

impl Gallery {
    /// Segments of so many rows each; about `deleted` per cent of them deleted. Odd segments are appended in two pieces,
    /// even ones are sealed, with checksums.
    pub fn new(
        random: &mut Random,
        segments: &[usize],
        dim: usize,
        planes: usize,
        is_coarse: bool,
        deleted: u64,
    ) -> Self {
        let rows = segments.iter().sum();
        let floats = random.floats(rows * dim, is_coarse);
        let codes = random.codes(rows * planes * 16, is_coarse);
        let keys = (0..rows).map(|_| if is_coarse { random.next() % 9 } else { random.next() }).collect();
        let deleted = (0..rows).map(|_| random.next() % 100 < deleted).collect();
        let lists = (0..rows).map(|_| (random.next() % LISTS as u64) as u16).collect();
        Self::load(segments, Rows { floats, codes, lists, keys, deleted }, dim, planes)
    }

    /// All rows and codes the same; keys differ.
    pub fn constant(random: &mut Random, rows: usize, dim: usize, planes: usize) -> Self {
        let (floats, codes) = (vec![0.5; rows * dim], vec![7; rows * planes * 16]);
        let keys = (0..rows).map(|_| random.next()).collect();
        let deleted = vec![false; rows];
        Self::load(&[rows], Rows { floats, codes, lists: vec![1; rows], keys, deleted }, dim, planes)
    }

    /// Of every 16,384 rows the first 256 have code 0 and the others have all bits set: what a sample of the starts
    /// of blocks says of the other rows is wrong.
    pub fn banded(random: &mut Random, rows: usize, dim: usize, planes: usize) -> Self {
        let floats = random.floats(rows * dim, false);
        let bands = (0..rows).flat_map(|row| vec![if row % 16_384 < 256 { 0 } else { 0xff }; planes * 16]);
        let (codes, keys) = (bands.collect(), (0..rows as u64).collect());
        let deleted = vec![false; rows];
        Self::load(&[rows], Rows { floats, codes, lists: vec![1; rows], keys, deleted }, dim, planes)
    }

    fn load(segments: &[usize], rows: Rows, dim: usize, planes: usize) -> Self {
        let index = Index::new(dim).expect("a dimension");
        index.set_codes(Layout { planes, lists: LISTS }, &[]).expect("no segments yet");
        let Rows { floats, codes, lists, keys, deleted } = rows;
        let (is_listed, loaded) = (vec![false; keys.len()], Vec::new());
        let mut gallery = Self { index, keys, floats, codes, lists, is_listed, deleted, dim, planes, segments: loaded };
        let mut first = 0;
        for (at, &rows) in segments.iter().enumerate() {
            let floats = &gallery.floats[first * dim..(first + rows) * dim];
            let bytes: Vec<u8> = floats.iter().flat_map(|value| value.to_le_bytes()).collect();
            let path = write(&bytes);
            gallery.index.open_segment(&path, rows).expect("a segment");
            let mut files = vec![path];
            let middle = first + if at % 2 == 1 { rows / 2 } else { 0 };
            gallery.append(first, middle);
            gallery.append(middle, first + rows);
            if at % 2 == 0 && rows > 0 {
                let keys = &gallery.keys[first..first + rows];
                let path = write(&keys.iter().flat_map(|key| key.to_le_bytes()).collect::<Vec<_>>());
                let sums = crc32c_blocks(&bytes, CHECKSUM_BLOCK);
                gallery.index.seal(at, &path, &sums).expect("the keys that were appended");
                files.push(path);
                gallery.is_listed[first..first + rows].fill((64 * LISTS..=1 << 16).contains(&rows));
            }
            gallery.segments.push((first..first + rows, files));
            first += rows;
        }
        let gone: Vec<i64> = (0..first).filter(|row| gallery.deleted[*row]).map(|row| row as i64).collect();
        assert_eq!(gallery.index.delete(&gone).expect("rows in range"), gone.len());
        gallery
    }

    fn append(&self, from: usize, to: usize) {
        let width = self.planes * 16;
        let code = |row: usize| [&self.codes[row * width..][..width], &self.lists[row].to_le_bytes()].concat();
        let codes: Vec<u8> = (from..to).flat_map(code).collect();
        assert_eq!(self.index.append(&self.keys[from..to], Some(&codes)).expect("rows"), from);
    }

    pub fn row(&self, row: usize) -> &[f32] {
        &self.floats[row * self.dim..][..self.dim]
    }

    pub fn live(&self) -> Vec<usize> {
        (0..self.keys.len()).filter(|row| !self.deleted[*row]).collect()
    }

    pub fn rows_of(&self, segment: usize) -> Range<usize> {
        self.segments[segment].0.clone()
    }

    pub fn floats_path(&self, segment: usize) -> &Path {
        &self.segments[segment].1[0]
    }

    /// Delete the rows of a segment and let go of it; its files are removed.
    pub fn drop_segment(&mut self, segment: usize) {
        let (rows, files) = &mut self.segments[segment];
        let gone: Vec<i64> = rows.clone().map(|row| row as i64).collect();
        self.deleted[rows.clone()].fill(true);
        self.index.delete(&gone).expect("rows in range");
        self.index.drop_segment(segment).expect("a segment without live rows");
        files.drain(..).for_each(|path| std::fs::remove_file(path).expect("the temporary file is still there"));
    }

    /// Flip bits of one byte of a segment's floats, in place.
    pub fn flip(&self, segment: usize, at: usize) {
        let mut file = OpenOptions::new().read(true).write(true).open(self.floats_path(segment)).expect("the floats");
        let mut byte = [0];
        file.seek(SeekFrom::Start(at as u64)).and_then(|_| file.read_exact(&mut byte)).expect("a byte");
        file.seek(SeekFrom::Start(at as u64)).and_then(|_| file.write_all(&[byte[0] ^ 0x40])).expect("a byte");
    }

    /// The list of a row that lies in order of lists.
    pub fn list(&self, row: usize) -> Option<usize> {
        self.is_listed[row].then(|| self.lists[row].into())
    }

    /// Bits of a filter that lets about so many per cent of the rows pass.
    pub fn filter(&self, random: &mut Random, share: u64) -> Vec<u8> {
        let mut bits = vec![0; self.keys.len().div_ceil(8)];
        for row in (0..self.keys.len()).filter(|_| random.next() % 100 < share) {
            bits[row / 8] |= 1 << (row % 8);
        }
        bits
    }

    /// Bits that agree with the signs of `values` minus bits that differ, weighted: on the first plane, and on all.
    pub fn agreement(&self, values: &[f32], row: usize) -> (f64, f64) {
        let code = &self.codes[row * self.planes * 16..];
        let signed = |(at, value): (usize, &f32)| {
            let is_set = code[at / 8] >> (7 - at % 8) & 1 == 1;
            f64::from(if is_set { *value } else { -value })
        };
        let parts: Vec<f64> = values.iter().enumerate().map(signed).collect();
        (parts[..128].iter().sum(), parts.iter().sum())
    }
}

impl Drop for Gallery {
    fn drop(&mut self) {
        for path in self.segments.iter().flat_map(|(_, files)| files) {
            std::fs::remove_file(path).expect("the temporary file is still there");
        }
    }
}

/// What a gallery is made of.
struct Rows {
    floats: Vec<f32>,
    codes: Vec<u8>,
    lists: Vec<u16>,
    keys: Vec<u64>,
    deleted: Vec<bool>,
}

fn write(bytes: &[u8]) -> PathBuf {
    static FILES: AtomicUsize = AtomicUsize::new(0);
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("facegrid-test-{}-{number}", std::process::id()));
    std::fs::write(&path, bytes).expect("room for a temporary file");
    path
}

/// The dot product in the documented order of additions, written once more.
pub fn score(probe: &[f32], row: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    for (at, (a, b)) in probe.iter().zip(row).enumerate() {
        lanes[at % LANES] += a * b;
    }
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    lanes[0]
}
