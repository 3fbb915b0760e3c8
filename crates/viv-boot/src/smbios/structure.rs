//! The form of a structure (DSP0134, 6.1): a formatted part, then its strings.

/// A structure under construction.
pub struct Structure {
    formatted: Vec<u8>,
    strings: Vec<u8>,
    count: u8,
}

impl Structure {
    /// One of type `kind`.
    pub fn new(kind: u8, handle: u16) -> Self {
        let [low, high] = handle.to_le_bytes();
        Self { formatted: vec![kind, 0, low, high], strings: Vec::new(), count: 0 }
    }

    /// Adds fields, byte by byte.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.formatted.extend(bytes);
        self
    }

    /// Adds a field of 16 bits.
    pub fn word(self, value: u16) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Adds a field of 32 bits.
    pub fn dword(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Adds a field of 64 bits.
    pub fn qword(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Adds a field that names a string; an empty one is none.
    pub fn text(mut self, text: &str) -> Self {
        let number = if text.is_empty() {
            0
        } else {
            self.strings.extend(text.bytes().chain([0]));
            self.count += 1;
            self.count
        };
        self.bytes(&[number])
    }

    /// The structure as it lies in memory.
    pub fn finish(mut self) -> Vec<u8> {
        self.formatted[1] = self.formatted.len() as u8;
        if self.strings.is_empty() {
            self.strings.push(0);
        }
        self.strings.push(0);
        self.formatted.extend(self.strings);
        self.formatted
    }
}
