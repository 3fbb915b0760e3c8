//! What a flash chip keeps its content in.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What a flash chip keeps its content in. Called under the device's lock, on a vCPU's thread.
pub trait FlashStore: Send {
    /// All of the content. Its size never changes.
    ///
    /// # Errors
    /// When it cannot be read.
    fn load(&mut self) -> io::Result<Vec<u8>>;

    /// Replaces what is at `offset`. Whether all of it is written is unknown after an error.
    ///
    /// # Errors
    /// When it cannot be written.
    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;
}

/// Content that is lost with the machine.
pub struct MemoryStore(Vec<u8>);

impl MemoryStore {
    /// A store that begins with this content.
    #[must_use]
    pub fn new(content: Vec<u8>) -> Self {
        Self(content)
    }
}

impl FlashStore for MemoryStore {
    /// The chip has all content itself, so it is given away.
    fn load(&mut self) -> io::Result<Vec<u8>> {
        Ok(std::mem::take(&mut self.0))
    }

    fn write(&mut self, _offset: u64, _data: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// Content in a file, which was opened for reading and writing. Dropped, it makes what was written outlive a crash of
/// the host.
pub struct FileStore {
    file: File,
}

impl FileStore {
    /// The content of `file`.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self { file }
    }
}

impl FlashStore for FileStore {
    fn load(&mut self) -> io::Result<Vec<u8>> {
        let size = self.file.metadata()?.len();
        if size > super::MAX_SIZE {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        let mut content = vec![0; usize::try_from(size).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut content, 0)?;
        Ok(content)
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }
}

impl Drop for FileStore {
    fn drop(&mut self) {
        if let Err(error) = self.file.sync_data() {
            tracing::warn!(
                "what firmware wrote to flash memory may not outlive a crash of the host: {error}"
            );
        }
    }
}
