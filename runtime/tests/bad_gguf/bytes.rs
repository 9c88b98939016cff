//! Files put together byte by byte, so that any field can be wrong.

/// Numbers of the value types.
pub const U8: u32 = 0;
pub const U32: u32 = 4;
pub const I32: u32 = 5;
pub const F32: u32 = 6;
pub const BOOL: u32 = 7;
pub const STR: u32 = 8;
pub const ARRAY: u32 = 9;
pub const U64: u32 = 10;

/// Numbers of tensor types.
pub const T_F32: u32 = 0;
pub const T_Q4_K: u32 = 12;
pub const T_I8: u32 = 24;

/// A string with its length.
pub fn text(raw: impl AsRef<[u8]>) -> Vec<u8> {
    long_text(raw.as_ref().len() as u64, raw)
}

/// A string that says it has `len` bytes.
pub fn long_text(len: u64, raw: impl AsRef<[u8]>) -> Vec<u8> {
    [&len.to_le_bytes(), raw.as_ref()].concat()
}

/// A metadata entry.
pub fn entry(key: impl AsRef<[u8]>, ty: u32, value: impl AsRef<[u8]>) -> Vec<u8> {
    [&text(key), &ty.to_le_bytes()[..], value.as_ref()].concat()
}

/// The value of an array: element type, count, elements.
pub fn array(elem: u32, n: u64, elems: impl AsRef<[u8]>) -> Vec<u8> {
    [&elem.to_le_bytes()[..], &n.to_le_bytes(), elems.as_ref()].concat()
}

/// `general.alignment` as a u32.
pub fn alignment(bytes: u32) -> Vec<u8> {
    entry("general.alignment", U32, bytes.to_le_bytes())
}

/// A tensor description.
pub fn tensor(name: impl AsRef<[u8]>, dims: &[u64], ty: u32, offset: u64) -> Vec<u8> {
    tensor_of(name, (dims.len() as u32, dims), ty, offset)
}

/// A tensor description that says it has `n` dimensions.
pub fn tensor_of(name: impl AsRef<[u8]>, (n, dims): (u32, &[u64]), ty: u32, offset: u64) -> Vec<u8> {
    let dims: Vec<u8> = dims.iter().flat_map(|dim| dim.to_le_bytes()).collect();
    [&text(name), &n.to_le_bytes()[..], &dims, &ty.to_le_bytes(), &offset.to_le_bytes()].concat()
}

/// A file in parts; the counts say what is there unless they are set.
#[derive(Clone)]
pub struct File {
    pub magic: [u8; 4],
    pub version: u32,
    pub n_tensors: Option<u64>,
    pub n_entries: Option<u64>,
    pub entries: Vec<Vec<u8>>,
    pub tensors: Vec<Vec<u8>>,
    pub alignment: usize,
    pub data_bytes: usize,
}

impl File {
    /// A version 3 file with an architecture, nothing else, and no data.
    pub fn new() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            n_tensors: None,
            n_entries: None,
            entries: vec![entry("general.architecture", STR, text("llama"))],
            tensors: Vec::new(),
            alignment: 32,
            data_bytes: 0,
        }
    }

    pub fn with(mut self, entry: Vec<u8>) -> Self {
        self.entries.push(entry);
        self
    }

    pub fn tensor(mut self, tensor: Vec<u8>) -> Self {
        self.tensors.push(tensor);
        self
    }

    pub fn data(mut self, bytes: usize) -> Self {
        self.data_bytes = bytes;
        self
    }

    pub fn build(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.n_entries.unwrap_or(self.entries.len() as u64).to_le_bytes());
        out.extend(self.entries.concat());
        out.extend(self.tensors.concat());
        out.resize(out.len().next_multiple_of(self.alignment) + self.data_bytes, 0);
        out
    }
}

/// A file with one more entry.
pub fn with_entry(entry: Vec<u8>) -> Vec<u8> {
    File::new().with(entry).build()
}

/// A file with one tensor and 4096 bytes of data.
pub fn with_tensor(tensor: Vec<u8>) -> Vec<u8> {
    File::new().tensor(tensor).data(4096).build()
}

/// A small valid file that holds each kind of thing: scalars, strings, arrays, nested arrays, two tensors.
pub fn small_valid() -> Vec<u8> {
    let inner = [array(U8, 2, [1, 2]), array(STR, 1, text("x"))].concat();
    File::new()
        .with(entry("a.u32", U32, 7_u32.to_le_bytes()))
        .with(entry("a.bool", BOOL, [1]))
        .with(entry("a.strings", ARRAY, array(STR, 2, [text("aa"), text("")].concat())))
        .with(entry("a.floats", ARRAY, array(F32, 2, [0; 8])))
        .with(entry("a.bools", ARRAY, array(BOOL, 3, [0, 1, 1])))
        .with(entry("a.nested", ARRAY, array(ARRAY, 2, inner)))
        .with(alignment(32))
        .tensor(tensor("q", &[256, 2], T_Q4_K, 0))
        .tensor(tensor("f", &[3, 5], T_F32, 288))
        .data(288 + 60)
        .build()
}
