//! GGUF writer: version 3, little endian, alignment 32, streaming.
//!
//! The header needs every tensor's offset, so tensors are declared first and their data follows in the same
//! order.

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use undine_core::DType;

use crate::Error;
use crate::gguf::{ALIGNMENT_DEFAULT, MAGIC};
use crate::limits::{
    ARRAY_MAX, BESIDE_MAX, GGUF_DIMS_MAX, METADATA_MAX, NAME_BYTES_MAX, STRING_BYTES_MAX, TENSORS_MAX,
};
use crate::tensor::tensor_bytes;
use crate::value::{ARRAY_KIND, Array, Value};

const VERSION: u32 = 3;

/// A tensor to be written.
#[derive(Clone, PartialEq, Debug)]
pub struct TensorDeclaration {
    /// Name in the file.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
}

/// Writes one GGUF file to `W`.
pub struct GgufWriter<W: Write> {
    out: W,
    /// Name and size of every declared tensor.
    tensors: Vec<(String, usize)>,
    /// The tensor being written.
    current: usize,
    /// Bytes of it written.
    written: usize,
}

impl<W: Write> GgufWriter<W> {
    /// Writes metadata and tensor table. What the reader would refuse is refused here.
    pub fn new(
        mut out: W,
        metadata: &[(String, Value)],
        tensors: &[TensorDeclaration],
    ) -> Result<Self, Error> {
        let mut header = Vec::new();
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        check(tensors.len() as u64 <= TENSORS_MAX, || {
            format!("{} tensors, the limit is {TENSORS_MAX}", tensors.len())
        })?;
        check(metadata.len() as u64 <= METADATA_MAX, || format!("{} metadata keys", metadata.len()))?;
        header.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
        header.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
        let mut names = HashSet::new();
        for (key, value) in metadata {
            check(names.insert(key), || format!("metadata key {key} appears twice"))?;
            check(key != "general.alignment", || format!("{key} is fixed at {ALIGNMENT_DEFAULT}"))?;
            put_name(&mut header, key)?;
            put_value(&mut header, key, value)?;
        }
        names.clear();
        let mut sizes = Vec::with_capacity(tensors.len());
        let mut offset = 0u64;
        for tensor in tensors {
            check(names.insert(&tensor.name), || format!("tensor {} appears twice", tensor.name))?;
            let bytes = put_entry(&mut header, tensor, offset)?;
            offset += (bytes as u64).next_multiple_of(ALIGNMENT_DEFAULT.into());
            sizes.push((tensor.name.clone(), bytes));
        }
        header.resize(header.len().next_multiple_of(ALIGNMENT_DEFAULT as usize), 0);
        out.write_all(&header).map_err(failed)?;
        Ok(Self { out, tensors: sizes, current: 0, written: 0 })
    }

    /// Appends data of the current tensor; when it is complete the next one becomes current.
    ///
    /// # Errors
    /// If `data` goes beyond the end of the tensor, or the system refuses.
    pub fn append(&mut self, data: &[u8]) -> Result<(), Error> {
        let Some((name, bytes)) = self.tensors.get(self.current) else {
            return Err(Error::Write("data after the last declared tensor".to_owned()));
        };
        check(data.len() <= bytes - self.written, || format!("more data for {name} than its {bytes} bytes"))?;
        self.out.write_all(data).map_err(failed)?;
        self.written += data.len();
        if self.written == *bytes {
            let padding = [0; ALIGNMENT_DEFAULT as usize];
            let missing = bytes.next_multiple_of(padding.len()) - bytes;
            self.out.write_all(&padding[..missing]).map_err(failed)?;
            self.current += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Ends the file and returns what it was written to.
    ///
    /// # Errors
    /// If a declared tensor has not been written completely, or the system refuses.
    pub fn finish(mut self) -> Result<W, Error> {
        if let Some((name, bytes)) = self.tensors.get(self.current) {
            return Err(Error::Write(format!("{name} has {} of its {bytes} bytes", self.written)));
        }
        self.out.flush().map_err(failed)?;
        Ok(self.out)
    }
}

impl GgufWriter<NewFile> {
    /// Begins a file that appears at `path` when [`Self::commit`] succeeds, and not before.
    pub fn create(
        path: &Path,
        metadata: &[(String, Value)],
        tensors: &[TensorDeclaration],
    ) -> Result<Self, Error> {
        Self::new(NewFile::create(path)?, metadata, tensors)
    }

    /// Ends the file and puts it in place, replacing one that is there.
    pub fn commit(self) -> Result<(), Error> {
        self.finish()?.commit()
    }
}

/// How often a partial file is begun that another process takes for a leftover.
const ATTEMPTS_MAX: usize = 16;
/// End of the names of files that are being written.
const PARTIAL: &str = ".partial";

/// Removes what writers of the file called `name` left that were killed: the partial files that nobody has
/// locked.
fn remove_leftovers(path: &Path, name: &str) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.take(BESIDE_MAX).flatten() {
        let file_name = entry.file_name();
        let middle = file_name
            .to_str()
            .and_then(|other| other.strip_prefix('.')?.strip_prefix(name)?.strip_suffix(PARTIAL));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let ours = middle.and_then(|middle| middle.strip_prefix('.')?.split_once('-'));
        if !ours.is_some_and(|(process, number)| is_number(process) && is_number(number)) {
            continue;
        }
        // The lock is held while the file is removed: its writer may be about to take it.
        if let Ok(file) = File::open(entry.path())
            && file.try_lock().is_ok()
        {
            // If it cannot be removed, it stays: it hurts nobody.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A file under a temporary name beside its destination; removed unless committed.
pub struct NewFile {
    out: BufWriter<File>,
    temporary: PathBuf,
    path: PathBuf,
}

impl NewFile {
    /// Begins a file that appears at `path` when [`Self::commit`] succeeds, and not before; removes what
    /// writers of it left that were killed.
    ///
    /// # Errors
    /// If `path` is no file name, or the system refuses.
    pub fn create(path: &Path) -> Result<Self, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let Some(name) = path.file_name() else {
            return Err(Error::Write(format!("{} is not a file name", path.display())));
        };
        check_destination(path)?;
        let name = name.to_string_lossy();
        remove_leftovers(path, &name);
        for _ in 0..ATTEMPTS_MAX {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let temporary = path.with_file_name(format!(".{name}.{}-{number}{PARTIAL}", std::process::id()));
            let file = File::create_new(&temporary).map_err(|source| Error::io(path, source))?;
            // The lock tells other processes that somebody still writes; where there are no locks, they leave
            // the file alone. One that came before the lock takes the file for a leftover, and removes it.
            let is_taken = matches!(file.try_lock(), Err(TryLockError::WouldBlock));
            if !is_taken && temporary.exists() {
                return Ok(Self { out: BufWriter::new(file), temporary, path: path.to_owned() });
            }
        }
        Err(Error::Write(format!("{}: other processes keep removing its partial file", path.display())))
    }

    /// Puts the file in place, replacing one that is there.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn commit(mut self) -> Result<(), Error> {
        let fail = |source| Error::io(&self.path, source);
        self.out.flush().and_then(|()| self.out.get_ref().sync_all()).map_err(fail)?;
        // After the rename nothing is left under the temporary name, and dropping `self` removes nothing.
        fs::rename(&self.temporary, &self.path).map_err(fail)
    }
}

/// Refuses a place that a file would not appear at, or where it would replace something that is no file.
fn check_destination(path: &Path) -> Result<(), Error> {
    let refuse =
        |reason: &str| Err(Error::NotACheckpoint { path: path.to_owned(), reason: reason.to_owned() });
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty())
        && !folder.is_dir()
    {
        return refuse("expected a name in a folder that exists");
    }
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => refuse("expected the name of a file, found a folder"),
        Ok(found) if !found.is_file() => {
            refuse("expected a place for a file, found a device, a pipe or a socket")
        }
        _ => Ok(()),
    }
}

impl NewFile {
    /// Says which file it was.
    fn named<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.path.display())))
    }
}

impl Write for NewFile {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.out.write(data);
        self.named(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.out.flush();
        self.named(flushed)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // Nothing can be done about a temporary file that cannot be removed.
        let _ = fs::remove_file(&self.temporary);
    }
}

fn check(holds: bool, reason: impl Fn() -> String) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(Error::Write(reason())) }
}

fn failed(source: io::Error) -> Error {
    Error::Write(source.to_string())
}

fn put_name(out: &mut Vec<u8>, name: &str) -> Result<(), Error> {
    check(name.len() as u64 <= NAME_BYTES_MAX, || format!("a name of {} bytes", name.len()))?;
    put_string(out, name, name)
}

fn put_string(out: &mut Vec<u8>, key: &str, text: &str) -> Result<(), Error> {
    check(text.len() as u64 <= STRING_BYTES_MAX, || format!("{key}: a string of {} bytes", text.len()))?;
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn put_value(out: &mut Vec<u8>, key: &str, value: &Value) -> Result<(), Error> {
    out.extend_from_slice(&value.kind().to_le_bytes());
    match value {
        Value::U8(n) => out.extend_from_slice(&n.to_le_bytes()),
        Value::I8(n) => out.extend_from_slice(&n.to_le_bytes()),
        Value::U16(n) => out.extend_from_slice(&n.to_le_bytes()),
        Value::I16(n) => out.extend_from_slice(&n.to_le_bytes()),
        Value::U32(n) => out.extend_from_slice(&n.to_le_bytes()),
        Value::I32(n) => out.extend_from_slice(&n.to_le_bytes()),
        Value::F32(x) => out.extend_from_slice(&x.to_le_bytes()),
        Value::Bool(value) => out.push((*value).into()),
        Value::String(text) => put_string(out, key, text)?,
        Value::U64(n) => out.extend_from_slice(&n.to_le_bytes()),
        Value::I64(n) => out.extend_from_slice(&n.to_le_bytes()),
        Value::F64(x) => out.extend_from_slice(&x.to_le_bytes()),
        Value::Array(array) => put_array(out, key, array)?,
    }
    Ok(())
}

fn put_array(out: &mut Vec<u8>, key: &str, array: &Array) -> Result<(), Error> {
    check(array.len() as u64 <= ARRAY_MAX, || format!("{key}: an array of {} entries", array.len()))?;
    debug_assert_ne!(array.kind(), ARRAY_KIND, "arrays hold scalars");
    out.extend_from_slice(&array.kind().to_le_bytes());
    out.extend_from_slice(&(array.len() as u64).to_le_bytes());
    match array {
        Array::U8(values) => out.extend_from_slice(values),
        Array::I8(values) => out.extend(values.iter().flat_map(|n| n.to_le_bytes())),
        Array::U16(values) => out.extend(values.iter().flat_map(|n| n.to_le_bytes())),
        Array::I16(values) => out.extend(values.iter().flat_map(|n| n.to_le_bytes())),
        Array::U32(values) => out.extend(values.iter().flat_map(|n| n.to_le_bytes())),
        Array::I32(values) => out.extend(values.iter().flat_map(|n| n.to_le_bytes())),
        Array::F32(values) => out.extend(values.iter().flat_map(|x| x.to_le_bytes())),
        Array::Bool(values) => out.extend(values.iter().map(|&value| u8::from(value))),
        Array::String(values) => values.iter().try_for_each(|text| put_string(out, key, text))?,
        Array::U64(values) => out.extend(values.iter().flat_map(|n| n.to_le_bytes())),
        Array::I64(values) => out.extend(values.iter().flat_map(|n| n.to_le_bytes())),
        Array::F64(values) => out.extend(values.iter().flat_map(|x| x.to_le_bytes())),
    }
    Ok(())
}

/// Appends a tensor table entry and returns the size of the tensor's data.
fn put_entry(out: &mut Vec<u8>, tensor: &TensorDeclaration, offset: u64) -> Result<usize, Error> {
    let TensorDeclaration { name, dtype, shape } = tensor;
    let dims_allowed = (1..=GGUF_DIMS_MAX).contains(&shape.len()) && !shape.contains(&0);
    let bytes = tensor_bytes(*dtype, shape).filter(|_| dims_allowed);
    let Some(bytes) = bytes else {
        let reason = format!(
            "tensor {name}: shape {shape:?} as {dtype}; expected 1 to {GGUF_DIMS_MAX} dimensions above 0, \
             the innermost a multiple of {}",
            dtype.block_elems()
        );
        return Err(Error::Write(reason));
    };
    put_name(out, name)?;
    out.extend_from_slice(&(shape.len() as u32).to_le_bytes());
    out.extend(shape.iter().rev().flat_map(|&dim| (dim as u64).to_le_bytes()));
    out.extend_from_slice(&dtype.ggml().to_le_bytes());
    out.extend_from_slice(&offset.to_le_bytes());
    Ok(bytes)
}
