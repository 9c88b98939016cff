//! An entry of the cache: one file with the kernels of a spec for a target. Two lines of JSON: what the file is, with the
//! SHA-256 of the second line, and the kernels.

use std::borrow::Cow;
use std::io;

use codegen::emit::sha256_hex;
use plan::{Access, KernelDesc, ParamDesc};
use serde::{Deserialize, Serialize};

/// Raised when the form of entries changes.
const FORMAT: u32 = 1;

/// Why an entry is not used. None of these is an error of a load: the kernels are made again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// There is no entry yet.
    #[error("there is none yet")]
    Absent,
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    Read(#[source] io::Error),
    /// The file is larger than any entry.
    #[error("it has {found} bytes, an entry at most {limit}")]
    Size {
        /// Bytes of the file.
        found: u64,
        /// The most that an entry has.
        limit: u64,
    },
    /// No JSON of this form.
    #[error("it is no entry: {0}")]
    Form(String),
    /// An entry of another form, spec, target or generator.
    #[error("it says {found}, {wanted} is wanted")]
    Foreign {
        /// What the file says it is.
        found: String,
        /// What was looked for.
        wanted: String,
    },
    /// The kernels are not those that were written.
    #[error("its checksum is {found}, its first line says {wanted}")]
    Checksum {
        /// Of the file's kernels.
        found: String,
        /// What its first line says.
        wanted: String,
    },
    /// A kernel's text is not what the generator makes.
    #[error("kernel {kernel}: {reason}")]
    Kernel {
        /// Symbol.
        kernel: String,
        /// What the parser or the verifier says, or what the text has in another way than the entry.
        reason: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head<'a> {
    monomorph_kernels: u32,
    key: Cow<'a, str>,
    sha256: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kernel<'a> {
    entry: Cow<'a, str>,
    name: Cow<'a, str>,
    constants: Cow<'a, str>,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    cooperative: bool,
    params: Vec<(Cow<'a, str>, Cow<'a, str>, Cow<'a, str>)>,
    bytes: u64,
    macs: u64,
    ptx: Cow<'a, str>,
}

const ACCESS: [(Access, &str); 4] = [
    (Access::Read, "read"),
    (Access::Settled, "settled"),
    (Access::Write, "write"),
    (Access::ReadWrite, "read_write"),
];

/// The text of an entry.
pub(super) fn print(key: &str, kernels: &[KernelDesc]) -> Result<String, EntryError> {
    let form = |error: serde_json::Error| EntryError::Form(error.to_string());
    let kernels: Vec<Kernel<'_>> = kernels.iter().map(of_desc).collect();
    let body = serde_json::to_string(&kernels).map_err(form)?;
    let sha256 = sha256_hex(&body).into();
    let head = Head { monomorph_kernels: FORMAT, key: key.into(), sha256 };
    Ok(format!("{}\n{body}\n", serde_json::to_string(&head).map_err(form)?))
}

fn of_desc(kernel: &KernelDesc) -> Kernel<'_> {
    let access = |wanted: Access| ACCESS.iter().find(|(access, _)| *access == wanted).map_or("", |(_, n)| n);
    let param =
        |p: &'_ ParamDesc| (p.name.to_string().into(), p.elem.to_string().into(), access(p.access).into());
    Kernel {
        entry: (&*kernel.entry).into(),
        name: (&*kernel.name).into(),
        constants: (&*kernel.constants).into(),
        grid: kernel.grid,
        block: kernel.block,
        shared_bytes: kernel.shared_bytes,
        cooperative: kernel.cooperative,
        params: kernel.params.iter().map(param).collect(),
        bytes: kernel.bytes,
        macs: kernel.macs,
        ptx: (&*kernel.ptx).into(),
    }
}

/// The kernels of the entry `text` for `key` and targets up to `sm`.
pub(super) fn parse(text: &str, key: &str, sm: u32) -> Result<Vec<KernelDesc>, EntryError> {
    let form = |error: serde_json::Error| EntryError::Form(error.to_string());
    let (head, body) = text.split_once('\n').ok_or_else(|| EntryError::Form("it has one line".to_owned()))?;
    let head: Head<'_> = serde_json::from_str(head).map_err(form)?;
    if head.monomorph_kernels != FORMAT || head.key != key {
        let found = format!("format {}, key {}", head.monomorph_kernels, head.key);
        return Err(EntryError::Foreign { found, wanted: format!("format {FORMAT}, key {key}") });
    }
    let body = body.strip_suffix('\n').unwrap_or(body);
    let found = sha256_hex(body);
    if found != head.sha256 {
        return Err(EntryError::Checksum { found, wanted: head.sha256.into_owned() });
    }
    let kernels: Vec<Kernel<'_>> = serde_json::from_str(body).map_err(form)?;
    kernels.into_iter().map(|kernel| to_desc(kernel, sm)).collect()
}

fn to_desc(kernel: Kernel<'_>, sm: u32) -> Result<KernelDesc, EntryError> {
    check(&kernel, sm)?;
    let access = |name: &str| ACCESS.iter().find(|(_, n)| *n == name).map(|(access, _)| *access);
    let param = |(name, elem, how): (Cow<'_, str>, Cow<'_, str>, Cow<'_, str>)| match access(&how) {
        Some(access) => Ok(ParamDesc { name: owned(name), elem: owned(elem), access }),
        None => Err(EntryError::Form(format!("a parameter that is used as {how}"))),
    };
    let params = kernel.params.into_iter().map(param).collect::<Result<Vec<_>, _>>()?;
    Ok(KernelDesc {
        entry: owned(kernel.entry),
        name: owned(kernel.name),
        constants: owned(kernel.constants),
        ptx: owned(kernel.ptx),
        grid: kernel.grid,
        block: kernel.block,
        shared_bytes: kernel.shared_bytes,
        cooperative: kernel.cooperative,
        params: params.into(),
        bytes: kernel.bytes,
        macs: kernel.macs,
    })
}

fn owned(text: Cow<'_, str>) -> plan::Text {
    Cow::Owned(text.into_owned())
}

/// The text goes through the parser and the verifier as any other, and is the kernel that the entry describes.
fn check(kernel: &Kernel<'_>, sm: u32) -> Result<(), EntryError> {
    let refuse = |reason: String| EntryError::Kernel { kernel: kernel.entry.to_string(), reason };
    let module = ptx::parse(&kernel.ptx).map_err(|e| refuse(e.to_string()))?;
    if module.target.sm > sm {
        return Err(refuse(format!("its target is sm_{}, sm_{sm} is wanted", module.target.sm)));
    }
    let verified = ptx::verify(module).map_err(|e| refuse(e.to_string()))?;
    let [entry] = verified.entries.as_slice() else {
        return Err(refuse(format!("its text has {} entries, not 1", verified.entries.len())));
    };
    if entry.name != kernel.entry {
        return Err(refuse(format!("its text is of {}", entry.name)));
    }
    if entry.reqntid != kernel.block {
        return Err(refuse(format!("blocks of {:?}, its text has {:?}", kernel.block, entry.reqntid)));
    }
    let names = kernel.params.iter().map(|(name, ..)| &**name);
    if !entry.params.iter().map(|param| param.name.as_str()).eq(names) {
        return Err(refuse("its parameters are not those of its text".to_owned()));
    }
    Ok(())
}
