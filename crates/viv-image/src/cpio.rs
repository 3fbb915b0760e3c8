//! Archives in the "newc" format, as the kernel unpacks them
//! (Linux, `Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::io::{self, Write};

/// Archives may follow one another in an initial RAM disk if each begins on such a boundary.
const ALIGNMENT: usize = 4;
const TRAILER: &str = "TRAILER!!!";

/// Writes an archive of files and directories that all belong to root.
#[derive(Debug)]
pub struct Archive<W> {
    output: W,
    entries: u32,
}

impl<W: Write> Archive<W> {
    /// Starts an archive.
    pub fn new(output: W) -> Self {
        Self { output, entries: 0 }
    }

    /// Adds a directory. It has to come before its content.
    ///
    /// # Errors
    /// When the output fails.
    pub fn directory(&mut self, path: &str, permissions: u32) -> io::Result<()> {
        self.entry(path, 0o040_000 | permissions, &[])
    }

    /// Adds a regular file.
    ///
    /// # Errors
    /// When the output fails, and for files of 4 GiB and more, which the format cannot express.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        self.entry(path, 0o100_000 | permissions, content)
    }

    /// Ends the archive and returns its output.
    ///
    /// # Errors
    /// When the output fails.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry(TRAILER, 0, &[])?;
        Ok(self.output)
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let too_long =
            |_| io::Error::new(io::ErrorKind::FileTooLarge, "a file is too long for a cpio archive");
        let length = u32::try_from(content.len()).map_err(too_long)?;
        let name_length = u32::try_from(path.len() + 1).map_err(too_long)?;
        self.entries += 1;
        // Inode, mode, owner, group, links, time, size, four device numbers, name length, checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, name_length, 0];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08X}"));
        }
        self.output.write_all(header.as_bytes())?;
        self.output.write_all(path.as_bytes())?;
        self.output.write_all(&[0])?;
        self.pad(header.len() + path.len() + 1)?;
        self.output.write_all(content)?;
        self.pad(content.len())
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        let missing = written.next_multiple_of(ALIGNMENT) - written;
        self.output.write_all(&[0; ALIGNMENT][..missing])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_laid_out_as_the_kernel_reads_it() {
        let mut archive = Archive::new(Vec::new());
        archive.file("init", 0o755, b"#!").unwrap();
        let bytes = archive.finish().unwrap();
        let field = |index: usize| {
            let text = std::str::from_utf8(&bytes[6 + index * 8..14 + index * 8]).unwrap();
            u32::from_str_radix(text, 16).unwrap()
        };
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(field(1), 0o100_755);
        assert_eq!(field(6), 2);
        assert_eq!(field(11), 5);
        // The header has 110 bytes, the name 5 and one of padding, then the content, padded too.
        assert_eq!(&bytes[110..120], b"init\0\0#!\0\0");
        assert_eq!(&bytes[120..126], b"070701");
        assert!(bytes.windows(TRAILER.len()).any(|window| window == TRAILER.as_bytes()));
        assert_eq!(bytes.len() % ALIGNMENT, 0);
    }
}
