//! A small gallery that keeps its rows twice: in an `Index` and in plain vectors, for the oracle.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use _native::Index;
use _native::kernels::LANES;

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
    deleted: Vec<bool>,
    dim: usize,
    planes: usize,
    files: Vec<PathBuf>,
}

impl Gallery {
    /// Segments of so many rows each; about `deleted` per cent of them deleted. Odd segments are appended in two pieces.
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
        Self::load(segments, Self { index: index(dim), keys, floats, codes, deleted, dim, planes, files: vec![] })
    }

    /// All rows and codes the same; keys differ.
    pub fn constant(random: &mut Random, rows: usize, dim: usize, planes: usize) -> Self {
        let (floats, codes) = (vec![0.5; rows * dim], vec![7; rows * planes * 16]);
        let keys = (0..rows).map(|_| random.next()).collect();
        let deleted = vec![false; rows];
        Self::load(&[rows], Self { index: index(dim), keys, floats, codes, deleted, dim, planes, files: vec![] })
    }

    /// Of every 16,384 rows the first 256 have code 0 and the others have all bits set: what a sample of the starts
    /// of blocks says of the other rows is wrong.
    pub fn banded(random: &mut Random, rows: usize, dim: usize, planes: usize) -> Self {
        let floats = random.floats(rows * dim, false);
        let bands = (0..rows).flat_map(|row| vec![if row % 16_384 < 256 { 0 } else { 0xff }; planes * 16]);
        let (codes, keys) = (bands.collect(), (0..rows as u64).collect());
        let deleted = vec![false; rows];
        Self::load(&[rows], Self { index: index(dim), keys, floats, codes, deleted, dim, planes, files: vec![] })
    }

    fn load(segments: &[usize], mut gallery: Self) -> Self {
        gallery.index.set_codes(gallery.planes, &[]).expect("no segments yet");
        let mut first = 0;
        for (at, &rows) in segments.iter().enumerate() {
            let path = gallery.write(first, rows);
            gallery.index.open_segment(&path, rows).expect("a segment");
            gallery.files.push(path);
            let middle = first + if at % 2 == 1 { rows / 2 } else { 0 };
            gallery.append(first, middle);
            gallery.append(middle, first + rows);
            first += rows;
        }
        let gone: Vec<i64> = (0..first).filter(|row| gallery.deleted[*row]).map(|row| row as i64).collect();
        assert_eq!(gallery.index.delete(&gone).expect("rows in range"), gone.len());
        gallery
    }

    fn write(&self, first: usize, rows: usize) -> PathBuf {
        static FILES: AtomicUsize = AtomicUsize::new(0);
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("facegrid-test-{}-{number}", std::process::id()));
        let floats = &self.floats[first * self.dim..(first + rows) * self.dim];
        let bytes: Vec<u8> = floats.iter().flat_map(|value| value.to_le_bytes()).collect();
        std::fs::write(&path, bytes).expect("room for a temporary file");
        path
    }

    fn append(&self, from: usize, to: usize) {
        let codes = &self.codes[from * self.planes * 16..to * self.planes * 16];
        assert_eq!(self.index.append(&self.keys[from..to], Some(codes)).expect("rows"), from);
    }

    pub fn row(&self, row: usize) -> &[f32] {
        &self.floats[row * self.dim..][..self.dim]
    }

    pub fn live(&self) -> Vec<usize> {
        (0..self.keys.len()).filter(|row| !self.deleted[*row]).collect()
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

fn index(dim: usize) -> Index {
    Index::new(dim).expect("a dimension")
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
