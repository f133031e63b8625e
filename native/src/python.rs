//! The Python face, to the contract of `shard/_native.pyi`: checks arguments, releases the GIL, converts errors.

use std::path::PathBuf;

use numpy::{
    Element, Ix1, Ix2, PyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray, PyUntypedArray,
    PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyException, PyIndexError, PyMemoryError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::codes::Layout;
use crate::error::Error;
use crate::kernels::Kernel;
use crate::search::{Cascade, Found, Stage, Wanted};
use crate::{BOUND_VALUES, Result, checksums, hamming, index, projection, search};

type FoundArrays<'py> =
    (Bound<'py, PyArray2<i32>>, Bound<'py, PyArray2<i64>>, Bound<'py, PyArray2<f32>>, Bound<'py, PyArray2<u64>>);

pyo3::create_exception!(
    shard._native,
    CorruptBlock,
    PyException,
    "A block of a sealed file is not what was sealed: (path, byte offset of the block)."
);

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        match error {
            Error::Value(message) => PyValueError::new_err(message),
            Error::Row(message) => PyIndexError::new_err(message),
            Error::Memory(message) => PyMemoryError::new_err(message),
            Error::Io(cause) => cause.into(),
            Error::Corrupt { path, offset } => CorruptBlock::new_err((path.into_os_string(), offset)),
        }
    }
}

/// The compiled extension; see `shard/_native.pyi`.
#[pymodule]
mod _native {
    #[pymodule_export]
    use super::{
        CorruptBlock, PyIndex, PyProjection, PySketch, checksum_block, crc32c, crc32c_blocks, hamming_distances,
        join_sketches, kernel, kernels, search_indexes, use_kernel,
    };
    #[pymodule_export]
    const CHECKSUM_BLOCK: usize = super::checksums::CHECKSUM_BLOCK;
}

/// Names of the Hamming kernels that this processor can run, fastest first.
#[pyfunction]
fn kernels() -> Vec<&'static str> {
    Kernel::available().iter().map(Kernel::name).collect()
}

/// Name of the kernel in use.
#[pyfunction]
fn kernel() -> &'static str {
    Kernel::in_use().name()
}

/// Choose the kernel by name, once per process.
#[pyfunction]
fn use_kernel(name: &str) -> PyResult<()> {
    Ok(Kernel::choose(name)?)
}

/// Distances, (n, m) uint16, of probes (n, b) to codes (m, b).
#[pyfunction(name = "hamming", signature = (probes, codes, kernel = None))]
fn hamming_distances<'py>(
    py: Python<'py>,
    probes: &Bound<'py, PyAny>,
    codes: &Bound<'py, PyAny>,
    kernel: Option<&str>,
) -> PyResult<Bound<'py, PyArray2<u16>>> {
    let kernel = kernel.map_or_else(|| Ok(Kernel::in_use()), Kernel::named)?;
    let probes = array::<u8, Ix2>(probes, "probes", "(n, b) uint8")?;
    let codes = array::<u8, Ix2>(codes, "codes", "(m, b) uint8")?;
    let ([n, width], [m, code_width]) = (shape(&probes), shape(&codes));
    if width != code_width {
        let message = format!("probes and codes: expected rows of one width, got {width} and {code_width} bytes");
        return Err(PyValueError::new_err(message));
    }
    let (probes, codes) = (probes.as_slice()?, codes.as_slice()?);
    let distances = py.detach(|| hamming(probes, codes, width, kernel))?;
    PyArray1::from_vec(py, distances).reshape([n, m])
}

/// CRC32C (Castagnoli) of contiguous bytes, continuing from `value`.
#[pyfunction(signature = (data, value = 0))]
fn crc32c(py: Python<'_>, data: &Bound<'_, PyAny>, value: u32) -> PyResult<u32> {
    if let Ok(bytes) = data.cast::<PyBytes>() {
        let bytes = bytes.as_bytes();
        return Ok(py.detach(|| ::crc32c::crc32c_append(value, bytes)));
    }
    let view = byte_view(data)?;
    let bytes = view.as_slice()?;
    Ok(py.detach(|| ::crc32c::crc32c_append(value, bytes)))
}

/// CRC32C of each `block` bytes of contiguous bytes, as little-endian uint32.
#[pyfunction]
fn crc32c_blocks<'py>(py: Python<'py>, data: &Bound<'py, PyAny>, block: i64) -> PyResult<Bound<'py, PyBytes>> {
    let block = match count(block, "block")? {
        0 => return Err(PyValueError::new_err("block: expected at least 1 byte, got 0")),
        block => block,
    };
    let view = byte_view(data)?;
    let bytes = view.as_slice()?;
    let sums = py.detach(|| checksums::crc32c_blocks(bytes, block));
    Ok(PyBytes::new(py, &sums))
}

/// Bytes that each of `count` checksums of a file covers.
#[pyfunction]
fn checksum_block(size: i64, count: i64) -> PyResult<usize> {
    let (bytes, sums) = (self::count(size, "size")?, self::count(count, "count")?);
    checksums::checksum_block(bytes, sums)
        .ok_or_else(|| PyValueError::new_err(format!("{count} checksums are not those of a file of {size} bytes")))
}

/// Contiguous bytes of whatever kind. The stable ABI of Python 3.10 has no buffer protocol; NumPy makes a view of whatever
/// supports it.
fn byte_view<'py>(data: &Bound<'py, PyAny>) -> PyResult<PyReadonlyArray<'py, u8, Ix1>> {
    let view = data.py().import("numpy")?.call_method1("frombuffer", (data, "uint8"))?;
    array::<u8, Ix1>(&view, "data", "contiguous bytes")
}

/// The rows of one shard: mapped floats, tie keys, a deleted bitmap and, with a model, code planes in memory.
#[pyclass(name = "Index", module = "shard._native", frozen)]
struct PyIndex(index::Index);

#[pymethods]
impl PyIndex {
    #[new]
    fn new(dim: i64) -> PyResult<Self> {
        Ok(Self(index::Index::new(count(dim, "dim")?)?))
    }

    #[getter]
    fn dim(&self) -> usize {
        self.0.dim()
    }

    #[getter]
    fn rows(&self, py: Python<'_>) -> usize {
        py.detach(|| self.0.read().rows)
    }

    #[getter]
    fn live_rows(&self, py: Python<'_>) -> usize {
        py.detach(|| self.0.read().live)
    }

    #[getter]
    fn planes(&self, py: Python<'_>) -> usize {
        py.detach(|| self.0.read().layout.planes)
    }

    #[getter]
    fn lists(&self, py: Python<'_>) -> usize {
        py.detach(|| self.0.read().layout.lists)
    }

    #[getter]
    fn code_bytes(&self, py: Python<'_>) -> usize {
        py.detach(|| self.0.read().bytes())
    }

    fn open_segment(&self, py: Python<'_>, floats_path: PathBuf, capacity: i64) -> PyResult<usize> {
        let capacity = count(capacity, "capacity")?;
        Ok(py.detach(|| self.0.open_segment(&floats_path, capacity))?)
    }

    #[pyo3(signature = (keys, codes))]
    fn append(&self, py: Python<'_>, keys: &Bound<'_, PyAny>, codes: Option<&Bound<'_, PyAny>>) -> PyResult<usize> {
        let keys = array::<u64, Ix1>(keys, "keys", "(n,) uint64")?;
        let codes = codes.map(|codes| array::<u8, Ix2>(codes, "codes", "(n, bytes of a code) uint8")).transpose()?;
        if let Some([rows, width]) = codes.as_ref().map(shape) {
            let layout = py.detach(|| self.0.read().layout);
            if rows != keys.len() || (layout.planes > 0 && width != layout.width()) {
                let (n, expected) = (keys.len(), layout.width());
                let message = format!("codes: expected ({n}, {expected}) uint8, got ({rows}, {width})");
                return Err(PyValueError::new_err(message));
            }
        }
        let keys = keys.as_slice()?;
        let codes = codes.as_ref().map(PyReadonlyArray::as_slice).transpose()?;
        Ok(py.detach(|| self.0.append(keys, codes))?)
    }

    fn keys<'py>(&self, py: Python<'py>, segment: i64) -> PyResult<Bound<'py, PyArray1<u64>>> {
        let segment = count(segment, "segment")?;
        let keys = py.detach(|| self.0.keys(segment))?;
        Ok(PyArray1::from_vec(py, keys))
    }

    fn seal(&self, py: Python<'_>, segment: i64, keys_path: PathBuf, floats_crc: &[u8]) -> PyResult<()> {
        let segment = count(segment, "segment")?;
        Ok(py.detach(|| self.0.seal(segment, &keys_path, floats_crc))?)
    }

    #[pyo3(name = "drop")]
    fn drop_segment(&self, py: Python<'_>, segment: i64) -> PyResult<()> {
        let segment = count(segment, "segment")?;
        Ok(py.detach(|| self.0.drop_segment(segment))?)
    }

    fn skip(&self, py: Python<'_>, rows: i64) -> PyResult<usize> {
        let rows = count(rows, "rows")?;
        Ok(py.detach(|| self.0.skip(rows))?)
    }

    fn set_codes(&self, py: Python<'_>, planes: i64, lists: i64, codes: Vec<Bound<'_, PyAny>>) -> PyResult<()> {
        let layout = Layout { planes: count(planes, "planes")?, lists: count(lists, "lists")? };
        let expected = layout.checked_width().ok_or_else(|| {
            PyValueError::new_err(format!("set_codes: {planes} planes and {lists} lists are too many"))
        })?;
        let mut arrays = Vec::with_capacity(codes.len());
        for (at, codes) in codes.iter().enumerate() {
            let codes = array::<u8, Ix2>(codes, &format!("codes[{at}]"), "(rows, bytes of a code) uint8")?;
            let [rows, width] = shape(&codes);
            if width != expected {
                let message = format!(
                    "codes[{at}]: expected rows of {expected} bytes ({planes} planes, {lists} lists), got ({rows}, {width})"
                );
                return Err(PyValueError::new_err(message));
            }
            arrays.push(codes);
        }
        let slices = arrays.iter().map(PyReadonlyArray::as_slice).collect::<std::result::Result<Vec<_>, _>>()?;
        Ok(py.detach(|| self.0.set_codes(layout, &slices))?)
    }

    fn delete(&self, py: Python<'_>, rows: &Bound<'_, PyAny>) -> PyResult<usize> {
        let rows = array::<i64, Ix1>(rows, "rows", "(n,) int64")?;
        let rows = rows.as_slice()?;
        Ok(py.detach(|| self.0.delete(rows))?)
    }

    fn gather<'py>(&self, py: Python<'py>, rows: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let rows = array::<i64, Ix1>(rows, "rows", "(n,) int64")?;
        let rows = rows.as_slice()?;
        let floats = py.detach(|| self.0.gather(rows))?;
        PyArray1::from_vec(py, floats).reshape([rows.len(), self.0.dim()])
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let (rows, planes) = py.detach(|| {
            let state = self.0.read();
            (state.rows, state.layout.planes)
        });
        format!("Index(dim={}, rows={rows}, planes={planes})", self.0.dim())
    }
}

/// What a search model makes of probes.
#[pyclass(name = "Projection", frozen)]
struct PyProjection(projection::Projection);

/// Values, lists and bounds of probes.
type ProjectedArrays<'py> = (Bound<'py, PyArray2<f32>>, Bound<'py, PyArray2<f32>>, Bound<'py, PyArray2<f32>>);

#[pymethods]
impl PyProjection {
    #[new]
    fn new(
        py: Python<'_>,
        projection: &Bound<'_, PyAny>,
        thresholds: &Bound<'_, PyAny>,
        mean: &Bound<'_, PyAny>,
        centroids: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let projection = array::<f32, Ix2>(projection, "projection", "(dim, bits) float32")?;
        let thresholds = array::<f32, Ix1>(thresholds, "thresholds", "(bits,) float32")?;
        let mean = array::<f32, Ix1>(mean, "mean", "(dim,) float32")?;
        let centroids = array::<f32, Ix2>(centroids, "centroids", "(lists, 128) float32")?;
        let (projection, thresholds) = (projection.as_slice()?, thresholds.as_slice()?);
        let (mean, centroids) = (mean.as_slice()?, centroids.as_slice()?);
        Ok(Self(py.detach(|| projection::Projection::new(projection, thresholds, mean, centroids))?))
    }

    fn project<'py>(
        &self,
        py: Python<'py>,
        probes: &Bound<'py, PyAny>,
        lines: [(f64, f64); 3],
    ) -> PyResult<ProjectedArrays<'py>> {
        let probes = array::<f32, Ix2>(probes, "probes", "(n, dim) float32")?;
        let [n, dim] = shape(&probes);
        if dim != self.0.dim() {
            let message = format!("probes: expected (n, {}) float32, got ({n}, {dim})", self.0.dim());
            return Err(PyValueError::new_err(message));
        }
        let probes = probes.as_slice()?;
        let projected = py.detach(|| self.0.project(probes, &lines, Kernel::in_use()));
        Ok((
            PyArray1::from_vec(py, projected.values).reshape([n, self.0.bits()])?,
            PyArray1::from_vec(py, projected.lists).reshape([n, self.0.lists()])?,
            PyArray1::from_vec(py, projected.bounds).reshape([n, BOUND_VALUES])?,
        ))
    }
}

/// A cascade as it comes from Python: values, lists, bounds and knee, or None for an exact scan.
type CascadeArgument<'py> = Option<(Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>, f32)>;

type Floats<'py> = PyReadonlyArray<'py, f32, Ix2>;

/// The same with its arrays checked.
type CheckedCascade<'py> = Option<(Floats<'py>, Floats<'py>, Floats<'py>, f32)>;

/// The k best rows of all indexes together for each probe.
#[pyfunction(name = "search", signature = (indexes, probes, cascades, k, least = f32::NEG_INFINITY, filters = None))]
fn search_indexes<'py>(
    py: Python<'py>,
    indexes: Vec<Bound<'py, PyIndex>>,
    probes: &Bound<'py, PyAny>,
    cascades: Vec<CascadeArgument<'py>>,
    k: i64,
    least: f32,
    filters: Option<Vec<Option<Bound<'py, PyAny>>>>,
) -> PyResult<FoundArrays<'py>> {
    let k = count(k, "k")?;
    let probes = array::<f32, Ix2>(probes, "probes", "(n, dim) float32")?;
    let [n, dim] = shape(&probes);
    if cascades.len() != indexes.len() {
        let (m, c) = (indexes.len(), cascades.len());
        return Err(PyValueError::new_err(format!("expected cascades for {m} indexes, got {c}")));
    }
    let checked = cascades.iter().enumerate().map(|(at, cascade)| checked_cascade(cascade, at, n));
    let cascades = checked.collect::<PyResult<Vec<_>>>()?;
    let mut stages = Vec::with_capacity(cascades.len());
    for cascade in &cascades {
        stages.push(match cascade {
            Some((values, lists, bounds, knee)) => {
                let (values, lists, bounds) = (values.as_slice()?, lists.as_slice()?, bounds.as_slice()?);
                Stage::Cascade(Cascade { values, lists, bounds, knee: *knee })
            }
            None => Stage::Exact,
        });
    }
    let mut bits = Vec::new();
    for (at, filter) in filters.into_iter().flatten().enumerate() {
        let name = format!("filters[{at}]");
        bits.push(filter.map(|filter| array::<u8, Ix1>(&filter, &name, "(bytes,) uint8")).transpose()?);
    }
    let filters = match bits.is_empty() {
        true => vec![None; indexes.len()],
        false => bits
            .iter()
            .map(|bits| bits.as_ref().map(PyReadonlyArray::as_slice).transpose())
            .collect::<std::result::Result<Vec<_>, _>>()?,
    };
    let indexes: Vec<&index::Index> = indexes.iter().map(|index| &index.get().0).collect();
    let probes = probes.as_slice()?;
    let wanted = Wanted { k, least, filters: &filters };
    let found = py.detach(|| -> Result<Found> { search(&indexes, probes, dim, &stages, &wanted, Kernel::in_use()) })?;
    Ok((
        PyArray1::from_vec(py, found.indexes).reshape([n, k])?,
        PyArray1::from_vec(py, found.rows).reshape([n, k])?,
        PyArray1::from_vec(py, found.scores).reshape([n, k])?,
        PyArray1::from_vec(py, found.keys).reshape([n, k])?,
    ))
}

/// Pairs of rows of one or two sketches.
type PairArrays<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<f32>>);

/// Bounds of the cosines of rows.
#[pyclass(name = "Sketch", module = "shard._native")]
struct PySketch(crate::Sketch);

#[pymethods]
impl PySketch {
    #[new]
    fn new(scale: f64, head: i64, tail: i64) -> PyResult<Self> {
        let widths = crate::Widths { head: count(head, "head")?, tail: count(tail, "tail")? };
        Ok(Self(crate::Sketch::new(scale, widths)?))
    }

    #[getter]
    fn rows(&self) -> usize {
        self.0.rows()
    }

    #[getter]
    fn coordinates(&self) -> usize {
        self.0.widths().coordinates()
    }

    #[getter]
    fn nbytes(&self) -> usize {
        self.0.bytes()
    }

    fn possible(&self, py: Python<'_>, least: f64) -> (usize, usize) {
        py.detach(|| crate::possible(&self.0, least, Kernel::in_use()))
    }

    fn append(&mut self, py: Python<'_>, coordinates: &Bound<'_, PyAny>, squares: &Bound<'_, PyAny>) -> PyResult<()> {
        let coordinates = array::<f32, Ix2>(coordinates, "coordinates", "(n, width) float32")?;
        let squares = array::<f32, Ix1>(squares, "squares", "(n,) float32")?;
        let [_, width] = shape(&coordinates);
        let (coordinates, squares) = (coordinates.as_slice()?, squares.as_slice()?);
        Ok(py.detach(|| self.0.append(coordinates, width, squares))?)
    }
}

/// A side of a join as it comes from Python: its sketch, pieces of its floats, and the order of its rows.
type SideArgument<'py> = (Bound<'py, PySketch>, Vec<Bound<'py, PyAny>>, Option<Bound<'py, PyAny>>);

/// Bounds of lists, of visits, and the visitors.
type VisitsArgument<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>);

/// A side with its arrays checked.
struct CheckedSide<'py> {
    sketch: PyRef<'py, PySketch>,
    pieces: Vec<Floats<'py>>,
    order: Option<PyReadonlyArray<'py, u32, Ix1>>,
}

impl<'py> CheckedSide<'py> {
    fn new(side: &SideArgument<'py>, name: &str) -> PyResult<Self> {
        let (sketch, pieces, order) = side;
        let piece = |(at, piece)| array::<f32, Ix2>(piece, &format!("{name}[{at}]"), "(n, dim) float32");
        let pieces: Vec<Floats> = pieces.iter().enumerate().map(piece).collect::<PyResult<_>>()?;
        let order = order.as_ref().map(|order| array::<u32, Ix1>(order, "order", "(n,) uint32")).transpose()?;
        Ok(Self { sketch: sketch.try_borrow()?, pieces, order })
    }

    fn side(&self) -> PyResult<crate::Side<'_>> {
        let dim = self.pieces.first().map_or(1, |piece| shape(piece)[1]);
        if let Some(other) = self.pieces.iter().map(|piece| shape(piece)[1]).find(|other| *other != dim) {
            return Err(PyValueError::new_err(format!("floats: expected one dimension, got {dim} and {other}")));
        }
        let pieces = self.pieces.iter().map(PyReadonlyArray::as_slice).collect::<std::result::Result<_, _>>()?;
        let order = self.order.as_ref().map(PyReadonlyArray::as_slice).transpose()?;
        Ok(crate::Side { sketch: &self.sketch.0, floats: crate::Rows::new(pieces, dim.max(1), order)? })
    }
}

/// All pairs of rows with a cosine of at least `least`.
#[pyfunction(signature = (left, right, least, visits = None))]
fn join_sketches<'py>(
    py: Python<'py>,
    left: SideArgument<'py>,
    right: Option<SideArgument<'py>>,
    least: f32,
    visits: Option<VisitsArgument<'py>>,
) -> PyResult<PairArrays<'py>> {
    let left = CheckedSide::new(&left, "left")?;
    let right = right.as_ref().map(|right| CheckedSide::new(right, "right")).transpose()?;
    let (left, right) = (left.side()?, right.as_ref().map(CheckedSide::side).transpose()?);
    let visits = visits.as_ref().map(|(lists, visits, visitors)| {
        let lists = array::<i64, Ix1>(lists, "lists", "(lists + 1,) int64")?;
        let visits = array::<i64, Ix1>(visits, "visits", "(lists + 1,) int64")?;
        PyResult::Ok((lists, visits, array::<u32, Ix1>(visitors, "visitors", "(n,) uint32")?))
    });
    let visits = visits.transpose()?;
    let visits = match &visits {
        None => None,
        Some((lists, visits, visitors)) => {
            Some(crate::Visits { lists: lists.as_slice()?, visits: visits.as_slice()?, visitors: visitors.as_slice()? })
        }
    };
    let found = py.detach(|| crate::pairs(&left, right.as_ref(), least, visits.as_ref(), Kernel::in_use()))?;
    let numbers = |of: fn(&crate::Pair) -> u32| found.iter().map(|pair| i64::from(of(pair))).collect();
    Ok((
        PyArray1::from_vec(py, numbers(|pair| pair.0)),
        PyArray1::from_vec(py, numbers(|pair| pair.1)),
        PyArray1::from_vec(py, found.iter().map(|pair| pair.2).collect()),
    ))
}

fn checked_cascade<'py>(cascade: &CascadeArgument<'py>, at: usize, n: usize) -> PyResult<CheckedCascade<'py>> {
    let Some((values, lists, bounds, knee)) = cascade else { return Ok(None) };
    let values = per_probe(values, &format!("values[{at}]"), "(n, planes * 128) float32", n)?;
    let lists = per_probe(lists, &format!("lists[{at}]"), "(n, lists) float32", n)?;
    let bounds = per_probe(bounds, &format!("bounds[{at}]"), "(n, 6) float32", n)?;
    Ok(Some((values, lists, bounds, *knee)))
}

fn per_probe<'py>(
    value: &Bound<'py, PyAny>,
    name: &str,
    expected: &str,
    n: usize,
) -> PyResult<PyReadonlyArray<'py, f32, Ix2>> {
    let array = array::<f32, Ix2>(value, name, expected)?;
    let [rows, width] = shape(&array);
    if rows != n {
        return Err(PyValueError::new_err(format!("{name}: expected {n} rows, one per probe, got ({rows}, {width})")));
    }
    Ok(array)
}

fn count(value: i64, name: &str) -> PyResult<usize> {
    usize::try_from(value).map_err(|_| PyValueError::new_err(format!("{name}: expected 0 or more, got {value}")))
}

fn shape<T: Element>(array: &PyReadonlyArray<'_, T, Ix2>) -> [usize; 2] {
    [array.shape()[0], array.shape()[1]]
}

/// The argument as a C-contiguous, aligned array of that type and number of dimensions, or a ValueError.
fn array<'py, T: Element, D: numpy::ndarray::Dimension>(
    value: &Bound<'py, PyAny>,
    name: &str,
    expected: &str,
) -> PyResult<PyReadonlyArray<'py, T, D>> {
    let wrong = |got: String| PyValueError::new_err(format!("{name}: expected C-contiguous {expected}, got {got}"));
    let Ok(array) = value.cast::<PyArray<T, D>>() else {
        return Err(wrong(describe(value)));
    };
    if !array.is_c_contiguous() || !array.is_aligned() {
        return Err(wrong(format!("{} that is not contiguous or not aligned", describe(value))));
    }
    array.try_readonly().map_err(|cause| wrong(cause.to_string()))
}

fn describe(value: &Bound<'_, PyAny>) -> String {
    match value.cast::<PyUntypedArray>() {
        Ok(array) => {
            let sizes: Vec<String> = array.shape().iter().map(usize::to_string).collect();
            let comma = if sizes.len() == 1 { "," } else { "" };
            format!("({}{comma}) {}", sizes.join(", "), array.dtype())
        }
        Err(_) => value.get_type().to_string(),
    }
}
