//! A guest's side of the protocol.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use tempfile::TempDir;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::fuse::abi::{
    CreateIn, Dirent, EntryOut, InHeader, InitIn, Opcode, OpenIn, OpenOut, OutHeader, ROOT, ReadIn, WriteIn,
    WriteOut,
};
use crate::server::LARGEST_DATA;
use crate::{Cache, FileServer, Links, Owners, Settings};

/// A guest that has mounted a directory.
pub(crate) struct Client {
    pub(crate) server: FileServer,
    /// Whom it acts for.
    pub(crate) user: (u32, u32),
}

/// A directory of the host, and below it the one that is shared, with a secret beside.
pub(crate) fn shared() -> (TempDir, std::path::PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("shared");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(home.path().join("secret"), "of the host").unwrap();
    (home, directory)
}

impl Client {
    /// Mounts a directory as the user of this process, who is root in the guest, sees it.
    pub(crate) fn mount(directory: &Path) -> Self {
        Self::with(directory, |_| ())
    }

    /// As [`Client::mount`], with other settings.
    pub(crate) fn with(directory: &Path, change: impl FnOnce(&mut Settings)) -> Self {
        let user = rustix::process::geteuid().as_raw();
        let group = rustix::process::getegid().as_raw();
        let mut settings = Settings {
            read_only: false,
            cache: Cache::Auto,
            owners: Owners::Squashed { user, group },
            nodes: 1000,
            handles: 1000,
        };
        change(&mut settings);
        let root: OwnedFd =
            openat(CWD, directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .unwrap();
        let server = FileServer::new(root, Links::usual().unwrap(), settings).unwrap();
        let client = Self { server, user: (0, 0) };
        let init = InitIn { major: 7, minor: 38, max_readahead: 1 << 17, flags: u32::MAX };
        client.ask(Opcode::Init, ROOT, init.as_bytes()).unwrap();
        client
    }

    /// The bytes of a request.
    pub(crate) fn request(&self, opcode: u32, nodeid: u64, body: &[u8]) -> Vec<u8> {
        let length = size_of::<InHeader>() + body.len();
        let header = InHeader {
            len: length as u32,
            opcode,
            unique: 77,
            nodeid,
            uid: self.user.0,
            gid: self.user.1,
            ..InHeader::default()
        };
        [header.as_bytes(), body].concat()
    }

    /// Asks, and takes the answer.
    pub(crate) fn ask(&self, opcode: Opcode, nodeid: u64, body: &[u8]) -> Result<Vec<u8>, Errno> {
        let number = Opcode::ALL.iter().find(|(known, _)| *known == opcode).unwrap().1;
        let mut reply = vec![0; LARGEST_DATA + 4096];
        let request = self.request(number, nodeid, body);
        let length = self.server.serve(&request, &mut reply).expect("an answer");
        reply.truncate(length);
        let (header, rest) = OutHeader::read_from_prefix(&reply).unwrap();
        assert_eq!((header.len as usize, header.unique), (reply.len(), 77));
        match header.error {
            0 => Ok(rest.to_vec()),
            error => {
                assert!(rest.is_empty());
                Err(Errno::from_raw_os_error(-error))
            }
        }
    }

    /// Asks what has a structure for an answer.
    pub(crate) fn get<T: FromBytes + KnownLayout + Immutable>(
        &self,
        opcode: Opcode,
        nodeid: u64,
        body: &[u8],
    ) -> Result<T, Errno> {
        Ok(T::read_from_prefix(&self.ask(opcode, nodeid, body)?).unwrap().0)
    }

    pub(crate) fn lookup(&self, directory: u64, name: &str) -> Result<EntryOut, Errno> {
        self.get(Opcode::Lookup, directory, &text(&[name]))
    }

    pub(crate) fn create(&self, directory: u64, name: &str, flags: OFlags) -> Result<(u64, u64), Errno> {
        let create = CreateIn { flags: flags.bits(), mode: 0o100_644, ..CreateIn::default() };
        let answer = self.ask(Opcode::Create, directory, &[create.as_bytes(), &text(&[name])].concat())?;
        let (entry, rest) = EntryOut::read_from_prefix(&answer).unwrap();
        Ok((entry.nodeid, OpenOut::read_from_prefix(rest).unwrap().0.fh))
    }

    pub(crate) fn open(&self, node: u64, flags: OFlags) -> Result<u64, Errno> {
        let open = OpenIn { flags: flags.bits(), open_flags: 0 };
        Ok(self.get::<OpenOut>(Opcode::Open, node, open.as_bytes())?.fh)
    }

    pub(crate) fn read(&self, node: u64, fh: u64, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let read = ReadIn { fh, offset, size, ..ReadIn::default() };
        self.ask(Opcode::Read, node, read.as_bytes())
    }

    pub(crate) fn write(&self, node: u64, fh: u64, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        let write = WriteIn { fh, offset, size: data.len() as u32, ..WriteIn::default() };
        Ok(self.get::<WriteOut>(Opcode::Write, node, &[write.as_bytes(), data].concat())?.size)
    }

    /// All names in a directory, `.` and `..` among them, by as many requests as it takes.
    pub(crate) fn list(&self, directory: u64, plus: bool) -> Vec<String> {
        let fh = self.get::<OpenOut>(Opcode::Opendir, directory, &[0; 8]).unwrap().fh;
        let (opcode, head) =
            if plus { (Opcode::Readdirplus, size_of::<EntryOut>()) } else { (Opcode::Readdir, 0) };
        let mut names = Vec::new();
        let mut offset = 0;
        loop {
            let read = ReadIn { fh, offset, size: 4096, ..ReadIn::default() };
            let answer = self.ask(opcode, directory, read.as_bytes()).unwrap();
            assert!(answer.len() <= 4096);
            let mut rest = answer.as_slice();
            if rest.is_empty() {
                return names;
            }
            while !rest.is_empty() {
                let (entry, after) = Dirent::read_from_prefix(&rest[head..]).unwrap();
                let length = entry.namelen as usize;
                names.push(String::from_utf8(after[..length].to_vec()).unwrap());
                offset = entry.off;
                rest = &after[length.next_multiple_of(8)..];
            }
        }
    }
}

/// Texts, each with its zero.
pub(crate) fn text(texts: &[&str]) -> Vec<u8> {
    texts.iter().flat_map(|text| text.bytes().chain([0])).collect()
}
