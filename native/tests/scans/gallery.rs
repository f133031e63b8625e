//! A small gallery that keeps its rows twice: in an `Index` and in plain vectors, for the oracle.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use _native::kernels::LANES;
use _native::{Index, Layout};

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
    files: Vec<PathBuf>,
}

impl Gallery {
    /// Segments of so many rows each; about `deleted` per cent of them deleted. Odd segments are appended in two pieces,
    /// even ones are sealed.
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
        let (is_listed, files) = (vec![false; keys.len()], Vec::new());
        let mut gallery = Self { index, keys, floats, codes, lists, is_listed, deleted, dim, planes, files };
        let mut first = 0;
        for (at, &rows) in segments.iter().enumerate() {
            let floats = &gallery.floats[first * dim..(first + rows) * dim];
            let path = write(&floats.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>());
            gallery.index.open_segment(&path, rows).expect("a segment");
            gallery.files.push(path);
            let middle = first + if at % 2 == 1 { rows / 2 } else { 0 };
            gallery.append(first, middle);
            gallery.append(middle, first + rows);
            if at % 2 == 0 && rows > 0 {
                let keys = &gallery.keys[first..first + rows];
                let path = write(&keys.iter().flat_map(|key| key.to_le_bytes()).collect::<Vec<_>>());
                gallery.index.seal(at, &path).expect("the keys that were appended");
                gallery.files.push(path);
                gallery.is_listed[first..first + rows].fill((64 * LISTS..=1 << 16).contains(&rows));
            }
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
        for path in &self.files {
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
