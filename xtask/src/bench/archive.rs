//! Initial RAM disks: archives in the "newc" format
//! (Linux, `Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::collections::BTreeSet;
use std::path::{Component, Path};

/// An archive of programs and the directories that they are in.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    directories: BTreeSet<String>,
}

impl Archive {
    /// Adds a character device, in the root's `dev`.
    pub fn device(&mut self, name: &str, major: u32, minor: u32) {
        self.directories_of(&["dev"]);
        self.entry(&format!("dev/{name}"), 0o020_666, [major, minor], &[]);
    }

    /// Adds a program, at its path from the root, with the directories above it.
    pub fn program(&mut self, path: &Path, content: &[u8]) {
        let names: Vec<_> = path
            .components()
            .filter_map(|component| match component {
                Component::Normal(name) => Some(name.to_string_lossy()),
                _ => None,
            })
            .collect();
        if let Some((_, above)) = names.split_last() {
            self.directories_of(above);
        }
        self.entry(&names.join("/"), 0o100_755, [0, 0], content);
    }

    fn directories_of(&mut self, names: &[impl AsRef<str>]) {
        let mut path = String::new();
        for name in names {
            path += name.as_ref();
            if self.directories.insert(path.clone()) {
                self.entry(&path, 0o040_755, [0, 0], &[]);
            }
            path += "/";
        }
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, [0, 0], &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, [major, minor]: [u32; 2], content: &[u8]) {
        self.entries += 1;
        // Lengths are far below 4 GiB: all of it has to fit a guest's memory.
        let (content_length, name_length) = (content.len() as u32, path.len() as u32 + 1);
        // Inode, mode, owner, group, links, time, size, the numbers of its device and of the device that it is,
        // name length, checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, content_length, 0, 0, major, minor, name_length, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_come_once_and_before_what_is_in_them() {
        let mut archive = Archive::default();
        archive.program(Path::new("/usr/bin/a"), b"A");
        archive.program(Path::new("/usr/bin/b"), b"B");
        archive.device("null", 1, 3);
        let bytes = archive.finish();
        let text = String::from_utf8(bytes).unwrap();
        let names: Vec<&str> = text.split("070701").skip(1).map(|entry| &entry[104..]).collect();
        let names: Vec<&str> = names.iter().map(|rest| rest.split('\0').next().unwrap()).collect();
        assert_eq!(names, ["usr", "usr/bin", "usr/bin/a", "usr/bin/b", "dev", "dev/null", "TRAILER!!!"]);
        assert_eq!(text.len() % 4, 0);
    }
}
