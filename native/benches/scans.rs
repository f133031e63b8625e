//! What the comments in the crate claim: `cargo bench --no-default-features --features bench [-- FILTER]`.
//!
//! Codes and floats are random, which is the worst case for the rerank's memory accesses and the usual case for the
//! scans. RAYON_NUM_THREADS=1 gives the figures of one core. The searches write 2.3 GB to the temporary folder.

use std::hint::black_box;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::Duration;

use _native::kernels::{BLOCK_ROWS, Block, HeadTable, Kernel, Pick, TailWeights, pick};
use _native::{CHECKSUM_BLOCK, Cascade, Index, Layout, Projection, Stage, Wanted, crc32c_blocks, search};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const DIM: usize = 512;
const PLANES: usize = 4;
const ROWS: usize = 1 << 20;

/// Numbers that look random and are the same on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(len).collect()
    }

    fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| (self.next() >> 40) as f32 / 1e9 - 0.0084).collect()
    }
}

struct Gallery {
    index: Index,
    path: PathBuf,
}

impl Gallery {
    fn new(rows: usize) -> Self {
        let mut random = Random(42);
        let path = std::env::temp_dir().join(format!("facegrid-bench-{}-{rows}", std::process::id()));
        let mut file = BufWriter::new(std::fs::File::create(&path).expect("a temporary file"));
        for _ in 0..rows {
            let row: Vec<u8> = random.floats(DIM).iter().flat_map(|x| x.to_le_bytes()).collect();
            file.write_all(&row).expect("room for the floats");
        }
        file.into_inner().expect("room for the floats");
        let index = Index::new(DIM).expect("a dimension");
        index.open_segment(&path, rows).expect("a segment");
        let keys: Vec<u64> = (0..rows as u64).collect();
        index.append(&keys, None).expect("rows");
        let layout = Layout { planes: PLANES, lists: 0 };
        index.set_codes(layout, &[&random.bytes(rows * PLANES * 16)]).expect("codes");
        Self { index, path }
    }
}

/// A million rows in sealed segments that share one file of floats, in order of lists that are alike in length.
struct Listed {
    index: Index,
    paths: [PathBuf; 2],
}

impl Listed {
    const LISTS: usize = 512;
    const SEGMENT: usize = 1 << 16;

    fn new() -> Self {
        let mut random = Random(43);
        let file = |name: &str| std::env::temp_dir().join(format!("facegrid-bench-{}-{name}", std::process::id()));
        let paths = [file("floats"), file("keys")];
        let floats: Vec<u8> = random.floats(Self::SEGMENT * DIM).iter().flat_map(|x| x.to_le_bytes()).collect();
        let keys: Vec<u64> = (0..Self::SEGMENT as u64).collect();
        let sums = crc32c_blocks(&floats, CHECKSUM_BLOCK);
        std::fs::write(&paths[0], floats).expect("room for the floats");
        let bytes: Vec<u8> = keys.iter().flat_map(|key| key.to_le_bytes()).collect();
        std::fs::write(&paths[1], bytes).expect("room for the keys");
        let index = Index::new(DIM).expect("a dimension");
        for segment in 0..ROWS / Self::SEGMENT {
            index.open_segment(&paths[0], Self::SEGMENT).expect("a segment");
            index.append(&keys, None).expect("rows");
            index.seal(segment, &paths[1], &sums).expect("the keys");
        }
        let codes: Vec<Vec<u8>> = (0..ROWS / Self::SEGMENT)
            .map(|_| {
                let mut codes = random.bytes(Self::SEGMENT * (PLANES * 16 + 2));
                for row in codes.chunks_exact_mut(PLANES * 16 + 2) {
                    let list = random.next() as usize % Self::LISTS;
                    row[PLANES * 16..].copy_from_slice(&(list as u16).to_le_bytes());
                }
                codes
            })
            .collect();
        let codes: Vec<&[u8]> = codes.iter().map(Vec::as_slice).collect();
        index.set_codes(Layout { planes: PLANES, lists: Self::LISTS }, &codes).expect("codes");
        Self { index, paths }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        for path in &self.paths {
            std::fs::remove_file(path).expect("the temporary file is still there");
        }
    }
}

impl Drop for Gallery {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).expect("the temporary file is still there");
    }
}

/// The k best of one index.
fn best(k: usize) -> Wanted<'static> {
    Wanted { k, least: f32::NEG_INFINITY, filters: &[None] }
}

fn kernels(c: &mut Criterion) {
    let mut random = Random(1);
    let mut table = HeadTable([[0; 16]; 32]);
    table.0.as_flattened_mut().iter_mut().zip(random.bytes(512)).for_each(|(entry, byte)| *entry = byte % 32);
    for (name, rows) in [("head, in L1", 2048), ("head, 16 MiB", ROWS)] {
        let blocks: Vec<Block> = random.bytes(rows * 16).chunks(512).map(bytemuck::pod_read_unaligned).collect();
        let blocks: Vec<&Block> = blocks.iter().collect();
        let mut out = vec![[0; BLOCK_ROWS]; 64];
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Elements(rows as u64));
        for kernel in Kernel::available() {
            group.bench_function(kernel.name(), |b| {
                b.iter(|| blocks.chunks(64).for_each(|blocks| kernel.head(&table, blocks, black_box(&mut out))));
            });
        }
    }
}

fn refine(c: &mut Criterion) {
    let mut random = Random(2);
    let weights = random.bytes(384).into_iter().map(|byte| byte as i8).collect();
    let (tail, tails) = (TailWeights { weights, base: 50_000, head_unit: 1_700 }, random.bytes(ROWS * 48));
    let mut rows: Vec<u32> = (0..20_000).map(|_| random.next() as u32 % ROWS as u32).collect();
    rows.sort_unstable();
    let picks: Vec<Pick> = rows.iter().map(|row| pick(0, *row)).collect();
    let mut group = c.benchmark_group("refine, 20,000 of 1 M, 384 bits");
    group.throughput(Throughput::Elements(20_000));
    for kernel in Kernel::available() {
        group.bench_function(kernel.name(), |b| {
            b.iter_batched_ref(
                || picks.clone(),
                |picks| kernel.refine(&tail, &tails, 0, black_box(picks)),
                BatchSize::LargeInput,
            );
        });
    }
}

fn searches(c: &mut Criterion) {
    let mut random = Random(3);
    let million = Gallery::new(ROWS);
    let small = Gallery::new(100_000);
    let kernel = Kernel::in_use();
    let mut group = c.benchmark_group("search");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    // Every page of floats is touched once, as in a shard that has run for a while.
    let warm = Stage::Exact;
    search(&[&million.index], &random.floats(DIM), DIM, &[warm], &best(1), kernel).expect("a search");
    for n in [1, 16, 1024] {
        let (probes, values) = (random.floats(n * DIM), random.floats(n * PLANES * 128));
        // Random codes agree by nothing but chance: bounds high enough leave the pilot alone, which is one pass.
        let bounds = [1e9, 0.0].repeat(3 * n);
        let stage = Stage::Cascade(Cascade { values: &values, lists: &[], bounds: &bounds, knee: 1.0 });
        group.throughput(Throughput::Elements(n as u64));
        group.bench_function(BenchmarkId::new("batch, 1 M, one pass", n), |b| {
            b.iter(|| search(&[&million.index], &probes, DIM, &[stage], &best(10), kernel));
        });
    }
    for n in [1, 16, 256] {
        let probes = random.floats(n * DIM);
        let stage = Stage::Exact;
        group.throughput(Throughput::Elements(n as u64));
        group.bench_function(BenchmarkId::new("exact, 100,000", n), |b| {
            b.iter(|| search(&[&small.index], &probes, DIM, &[stage], &best(10), kernel));
        });
    }
}

/// A search that visits a part of the lists: of 512, about so many agree enough.
fn lists(c: &mut Criterion) {
    let mut random = Random(4);
    let listed = Listed::new();
    let kernel = Kernel::in_use();
    let probes = random.floats(DIM);
    search(&[&listed.index], &probes, DIM, &[Stage::Exact], &best(1), kernel).expect("a search");
    let mut group = c.benchmark_group("lists, 1 M, one probe");
    for visited in [4, 32, 128, 512] {
        let values = random.floats(PLANES * 128);
        let agreements: Vec<f32> = (0..Listed::LISTS).map(|list| (list * 37 % Listed::LISTS) as f32).collect();
        // Rows of the lists are let through by nothing else, so that their scan is what is measured.
        let bounds = [(Listed::LISTS - visited) as f32, 0.0, 1e9, 0.0, 1e9, 0.0];
        let stage = Stage::Cascade(Cascade { values: &values, lists: &agreements, bounds: &bounds, knee: 1.0 });
        group.bench_function(BenchmarkId::from_parameter(visited), |b| {
            b.iter(|| search(&[&listed.index], &probes, DIM, &[stage], &best(1), kernel));
        });
    }
}

fn projections(c: &mut Criterion) {
    let mut random = Random(5);
    let bits = PLANES * 128;
    let (weights, thresholds, mean) = (random.floats(DIM * bits), random.floats(bits), random.floats(DIM));
    let projection = Projection::new(&weights, &thresholds, &mean, &random.floats(512 * 128)).expect("shapes that fit");
    let lines = [(0.0, 1.0); 3];
    let mut group = c.benchmark_group("projection, 512 x 512, 512 lists");
    for n in [1, 16, 256] {
        let probes = random.floats(n * DIM);
        group.throughput(Throughput::Elements(n as u64));
        group.bench_function(BenchmarkId::from_parameter(n), |b| {
            b.iter(|| projection.project(&probes, &lines, Kernel::in_use()));
        });
    }
}

criterion_group! {
    name = all;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = kernels, refine, projections, lists, searches
}
criterion_main!(all);
