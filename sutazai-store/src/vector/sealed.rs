//! The index file of a collection: records and their graph, written once, checked, then read in place.
//!
//! Everything in it can be made again from the database. It is never changed: the next one takes its name. What the
//! database got after its last key is not in it, and its records may have been deleted since.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Read, Seek, Write},
    ops::Range,
    path::Path,
};

use memmap2::Mmap;

use super::{UsearchConfig, database::Identity, error::Failure, graph::Graph};

/// Says what the file is and its layout; another byte order does not read as this number.
const MAGIC: u64 = u64::from_le_bytes(*b"sutavec1");

/// Sections begin at multiples of this.
const ALIGN: usize = 64;

/// Where the graph begins past a multiple: usearch puts eight bytes before its vectors, which are then aligned.
const GRAPH_AT: usize = ALIGN - 8;

const HEADER: usize = size_of::<Header>();

/// The file's first bytes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
struct Header {
    magic: u64,
    number: i64,
    stamp: i64,
    dimension: u64,
    count: u64,
    texts: u64,
    graph: u64,
    /// CRC-32 of all that follows the header, and of the header with this word zero, in the upper half.
    sums: u64,
}

/// Where each section lies.
struct Layout {
    keys: Range<usize>,
    vectors: Range<usize>,
    /// Where each id and each payload ends among the texts.
    ends: Range<usize>,
    texts: Range<usize>,
    graph: Range<usize>,
}

/// One record, wherever it lies. The vector is of unit length.
#[derive(Clone, Copy)]
pub(super) struct Record<'a> {
    pub(super) key: i64,
    pub(super) id: &'a str,
    pub(super) payload: &'a str,
    pub(super) vector: &'a [f32],
}

/// An open index file.
pub(super) struct Sealed {
    /// Points into `map`, so it stands before it and is dropped first.
    graph: Graph,
    map: Mmap,
    layout: Layout,
    dimension: usize,
}

impl Sealed {
    /// Opens a collection's file, if there is one; fails if it is damaged or another collection's.
    pub(super) fn open(path: &Path, of: Identity, config: &UsearchConfig) -> Result<Option<Self>, Failure> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let (header, layout) = check(&file, of)?;
        // SAFETY: the store holds the directory's lock and never changes a file that has its final name.
        #[allow(unsafe_code, reason = "reading a file in place needs it")]
        let map = unsafe { Mmap::map(&file) }?;
        let bytes = map.get(layout.graph.clone()).ok_or_else(|| damaged("it is too short"))?;
        // SAFETY: the map stays where it is when `Sealed` moves, and is dropped after the graph.
        #[allow(unsafe_code, reason = "the graph is read in place")]
        let graph = unsafe { Graph::view(config, of.dimension, bytes) }?;
        if graph.len() as u64 != header.count {
            return Err(damaged("its graph has another number of records"));
        }
        Ok(Some(Self { graph, map, layout, dimension: of.dimension }))
    }

    /// Writes a collection's file: complete on disk under its name, or not there.
    pub(super) fn write<'r>(
        path: &Path,
        of: Identity,
        count: usize,
        record: impl Fn(usize) -> Record<'r>,
        graph: &[u8],
    ) -> io::Result<()> {
        let unfinished = path.with_extension("tmp");
        let written = write(&unfinished, of, count, record, graph).and_then(|()| fs::rename(&unfinished, path));
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written?;
        // The new name must survive a power cut as well.
        path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    }

    pub(super) fn graph(&self) -> &Graph {
        &self.graph
    }

    pub(super) fn graph_bytes(&self) -> &[u8] {
        &self.map[self.layout.graph.clone()]
    }

    pub(super) fn len(&self) -> usize {
        self.keys().len()
    }

    /// Ascending.
    pub(super) fn keys(&self) -> &[i64] {
        bytemuck::cast_slice(&self.map[self.layout.keys.clone()])
    }

    pub(super) fn vector(&self, slot: usize) -> &[f32] {
        let vectors: &[f32] = bytemuck::cast_slice(&self.map[self.layout.vectors.clone()]);
        &vectors[slot * self.dimension..][..self.dimension]
    }

    pub(super) fn record(&self, slot: usize) -> Record<'_> {
        let ends: &[u64] = bytemuck::cast_slice(&self.map[self.layout.ends.clone()]);
        let texts = &self.map[self.layout.texts.clone()];
        let at = |end: usize| if end == 0 { 0 } else { ends[end - 1] as usize };
        // Texts went in and the checksum was right: they are texts still.
        let text =
            |end: usize| texts.get(at(end)..at(end + 1)).and_then(|text| str::from_utf8(text).ok()).unwrap_or_default();
        Record { key: self.keys()[slot], id: text(2 * slot), payload: text(2 * slot + 1), vector: self.vector(slot) }
    }
}

impl Layout {
    /// Says nothing for numbers that no file can have.
    fn of(header: &Header) -> Option<Self> {
        let number = |n: u64| usize::try_from(n).ok();
        let (count, dimension) = (number(header.count)?, number(header.dimension)?);
        let section = |after: usize, len: usize, shift: usize| {
            let start = after.checked_next_multiple_of(ALIGN)?.checked_add(shift)?;
            Some(start..start.checked_add(len)?)
        };
        let keys = section(HEADER, count.checked_mul(8)?, 0)?;
        let vectors = section(keys.end, count.checked_mul(dimension)?.checked_mul(4)?, 0)?;
        let ends = section(vectors.end, count.checked_mul(16)?, 0)?;
        let texts = section(ends.end, number(header.texts)?, 0)?;
        let graph = section(texts.end, number(header.graph)?, GRAPH_AT)?;
        Some(Self { keys, vectors, ends, texts, graph })
    }
}

impl Header {
    fn own_sum(mut self) -> u32 {
        self.sums = 0;
        crc32fast::hash(bytemuck::bytes_of(&self))
    }

    fn sum(&mut self, body: u32) {
        self.sums = u64::from(self.own_sum()) << 32 | u64::from(body);
    }
}

/// Reads the whole file once, beside the map: pages that were only checked do not count as this process's memory.
fn check(mut file: &File, of: Identity) -> Result<(Header, Layout), Failure> {
    let mut bytes = [0; HEADER];
    match file.read_exact(&mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(damaged("it is too short")),
        read => read?,
    }
    let header: Header = bytemuck::cast(bytes);
    if header.magic != MAGIC {
        return Err(damaged("it is not an index of this version"));
    }
    if u64::from(header.own_sum()) != header.sums >> 32 {
        return Err(damaged("its header does not match its checksum"));
    }
    if (header.number, header.stamp, header.dimension) != (of.number, of.stamp, of.dimension as u64) {
        return Err(damaged("it belongs to another collection"));
    }
    let length = file.metadata()?.len();
    let layout = Layout::of(&header).filter(|layout| length == layout.graph.end as u64);
    let layout = layout.ok_or_else(|| damaged("it has not the length that it says"))?;
    let (mut sum, mut buffer) = (crc32fast::Hasher::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => sum.update(&buffer[..read]),
        }
    }
    if u64::from(sum.finalize()) != header.sums & u64::from(u32::MAX) {
        return Err(damaged("it does not match its checksum"));
    }
    Ok((header, layout))
}

fn write<'r>(
    path: &Path,
    of: Identity,
    count: usize,
    record: impl Fn(usize) -> Record<'r>,
    graph: &[u8],
) -> io::Result<()> {
    let texts = (0..count).map(&record).map(|record| (record.id.len() + record.payload.len()) as u64).sum();
    let mut header = Header {
        magic: MAGIC,
        number: of.number,
        stamp: of.stamp,
        dimension: of.dimension as u64,
        count: count as u64,
        texts,
        graph: graph.len() as u64,
        sums: 0,
    };
    let layout = Layout::of(&header).ok_or(io::ErrorKind::FileTooLarge)?;
    let file = File::create(path)?;
    let mut body = Body { file: BufWriter::with_capacity(1 << 20, &file), sum: crc32fast::Hasher::new(), at: HEADER };
    body.file.write_all(&[0; HEADER])?;
    body.pad(layout.keys.start)?;
    (0..count).try_for_each(|slot| body.put(bytemuck::bytes_of(&record(slot).key)))?;
    body.pad(layout.vectors.start)?;
    (0..count).try_for_each(|slot| body.put(bytemuck::cast_slice(record(slot).vector)))?;
    body.pad(layout.ends.start)?;
    let mut end = 0_u64;
    for record in (0..count).map(&record) {
        for text in [record.id, record.payload] {
            end += text.len() as u64;
            body.put(bytemuck::bytes_of(&end))?;
        }
    }
    body.pad(layout.texts.start)?;
    for record in (0..count).map(&record) {
        body.put(record.id.as_bytes())?;
        body.put(record.payload.as_bytes())?;
    }
    body.pad(layout.graph.start)?;
    body.put(graph)?;
    body.file.flush()?;
    header.sum(body.sum.finalize());
    let mut file = &file;
    file.rewind()?;
    file.write_all(bytemuck::bytes_of(&header))?;
    file.sync_all()
}

/// What follows the header, summed while it is written.
struct Body<'f> {
    file: BufWriter<&'f File>,
    sum: crc32fast::Hasher,
    at: usize,
}

impl Body<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.at += bytes.len();
        self.file.write_all(bytes)
    }

    fn pad(&mut self, to: usize) -> io::Result<()> {
        let zeros = [0; 2 * ALIGN];
        self.put(&zeros[..to - self.at])
    }
}

fn damaged(why: &'static str) -> Failure {
    Failure::Index(why)
}
