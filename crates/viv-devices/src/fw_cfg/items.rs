//! The items: what they hold, and under which keys they are found.

use std::collections::BTreeMap;

use super::regs::key;

/// The longest name of a file in bytes; the directory has 56 with the terminating zero.
pub const MAX_NAME: usize = 55;
/// How many files there can be.
pub const MAX_FILES: usize = (key::END_OF_FILES - key::FIRST_FILE) as usize;

/// Makes an item's content.
///
/// It is called under the device's lock, on a vCPU's thread: it may lock other devices, but not this one.
pub type Make = Box<dyn Fn() -> Vec<u8> + Send>;

/// What an item holds. Its size never changes.
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// What is made when the guest first selects it, kept until the machine is reset.
    Made {
        /// Its size in bytes; what is made is filled up with zeros, or cut.
        size: u32,
        /// Makes it.
        make: Make,
    },
    /// These bytes, until the guest overwrites them by DMA. A reset brings them back.
    Writable(Vec<u8>),
}

impl Content {
    fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) | Self::Writable(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Self::Made { size, .. } => (*size).into(),
        }
    }
}

/// Why an item cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FwCfgError {
    /// The key is taken, or not one of those that items can have.
    #[error("cannot add firmware item {key:#x}: the key is taken or reserved")]
    Key {
        /// The key.
        key: u16,
    },
    /// The name is not one that files can have.
    #[error("cannot add firmware file {name:?}: a name has 1 to 55 visible ASCII characters")]
    Name {
        /// The name.
        name: String,
    },
    /// There is a file of this name.
    #[error("cannot add firmware file {name:?}: there is one of this name")]
    Exists {
        /// The name.
        name: String,
    },
    /// It is larger than the directory can say.
    #[error("cannot add a firmware item of {size} bytes: the limit is 4 GiB - 1")]
    Size {
        /// Its size in bytes.
        size: u64,
    },
    /// There are [`MAX_FILES`] files.
    #[error("cannot add firmware file {name:?}: there are as many as there can be")]
    Full {
        /// The name.
        name: String,
    },
}

/// An item.
struct Item {
    content: Content,
    /// What was made or written.
    current: Option<Vec<u8>>,
}

impl Item {
    fn new(content: Content) -> Result<Self, FwCfgError> {
        let size = content.size();
        if size > u32::MAX.into() {
            return Err(FwCfgError::Size { size });
        }
        Ok(Self { content, current: None })
    }

    fn bytes(&self) -> &[u8] {
        match (&self.current, &self.content) {
            (Some(current), _) => current,
            (None, Content::Bytes(bytes) | Content::Writable(bytes)) => bytes,
            (None, Content::Made { .. }) => &[],
        }
    }

    /// Makes the content, if it is to be made and was not.
    fn select(&mut self) {
        let (None, Content::Made { size, make }) = (&self.current, &self.content) else { return };
        let mut bytes = make();
        let made = bytes.len();
        bytes.resize(usize::try_from(*size).unwrap_or(usize::MAX), 0);
        if made > bytes.len() {
            tracing::warn!("a firmware item of {made} bytes is cut to {size}");
        }
        self.current = Some(bytes);
    }

    fn set_current(&mut self, bytes: Vec<u8>) -> bool {
        let fits = u64::try_from(bytes.len()).is_ok_and(|length| length == self.content.size());
        let changes = !matches!(self.content, Content::Bytes(_));
        if fits && changes {
            self.current = Some(bytes);
        }
        fits && changes
    }
}

/// All items by key.
pub(super) struct Items {
    fixed: BTreeMap<u16, Item>,
    /// In the order of their names; the first has [`key::FIRST_FILE`].
    files: Vec<(String, Item)>,
    /// The bytes of [`key::FILE_DIRECTORY`].
    directory: Vec<u8>,
}

impl Items {
    /// Items that have no name, by their keys, and an empty directory.
    pub(super) fn new(fixed: impl IntoIterator<Item = (u16, Vec<u8>)>) -> Self {
        let item = |bytes| Item { content: Content::Bytes(bytes), current: None };
        let fixed = fixed.into_iter().map(|(key, bytes)| (key, item(bytes))).collect();
        let mut items = Self { fixed, files: Vec::new(), directory: Vec::new() };
        items.write_directory();
        items
    }

    /// Adds an item that has no name.
    pub(super) fn add(&mut self, key: u16, content: Content) -> Result<(), FwCfgError> {
        let usable = (key < key::FIRST_FILE && key != key::FILE_DIRECTORY)
            || (key::ARCHITECTURE..key::END_OF_ARCHITECTURE).contains(&key);
        if !usable || self.fixed.contains_key(&key) {
            return Err(FwCfgError::Key { key });
        }
        self.fixed.insert(key, Item::new(content)?);
        Ok(())
    }

    /// Adds a file. The keys of those whose names follow move up.
    pub(super) fn add_file(&mut self, name: &str, content: Content) -> Result<(), FwCfgError> {
        let name = name.to_owned();
        let visible = name.bytes().all(|byte| byte.is_ascii_graphic());
        if name.is_empty() || name.len() > MAX_NAME || !visible {
            return Err(FwCfgError::Name { name });
        }
        let Err(place) = self.find(&name) else { return Err(FwCfgError::Exists { name }) };
        if self.files.len() >= MAX_FILES {
            return Err(FwCfgError::Full { name });
        }
        self.files.insert(place, (name, Item::new(content)?));
        self.write_directory();
        Ok(())
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.files.binary_search_by(|(other, _)| other.as_str().cmp(name))
    }

    fn write_directory(&mut self) {
        let count = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        let mut directory = count.to_be_bytes().to_vec();
        for ((name, item), key) in self.files.iter().zip(key::FIRST_FILE..) {
            let size = u32::try_from(item.content.size()).unwrap_or(u32::MAX);
            directory.extend(size.to_be_bytes());
            directory.extend(key.to_be_bytes());
            directory.extend([0; 2]);
            directory.extend(name.bytes().chain(std::iter::repeat(0)).take(MAX_NAME.saturating_add(1)));
        }
        self.directory = directory;
    }

    /// The content of an item as the guest sees it; empty if there is none.
    pub(super) fn bytes(&self, key: u16) -> &[u8] {
        match key {
            key::FILE_DIRECTORY => &self.directory,
            key => self.item(key).map_or(&[], Item::bytes),
        }
    }

    /// The content of a file.
    pub(super) fn file(&self, name: &str) -> Option<&[u8]> {
        let (_, item) = self.files.get(self.find(name).ok()?)?;
        Some(item.bytes())
    }

    /// The guest selects an item.
    pub(super) fn select(&mut self, key: u16) {
        if let Some(item) = self.item_mut(key) {
            item.select();
        }
    }

    /// The bytes of a writable item, to be overwritten.
    pub(super) fn writable(&mut self, key: u16) -> Option<&mut [u8]> {
        match self.item_mut(key)? {
            Item { content: Content::Writable(initial), current } => {
                Some(current.get_or_insert_with(|| initial.clone()))
            }
            _ => None,
        }
    }

    /// Forgets what was made and written.
    pub(super) fn reset(&mut self) {
        for item in self.fixed.values_mut().chain(self.files.iter_mut().map(|(_, item)| item)) {
            item.current = None;
        }
    }

    /// What was made and written, by key.
    pub(super) fn current(&self) -> Vec<(u16, Vec<u8>)> {
        let fixed = self.fixed.iter().map(|(&key, item)| (key, item));
        let files = (key::FIRST_FILE..).zip(self.files.iter().map(|(_, item)| item));
        fixed.chain(files).filter_map(|(key, item)| Some((key, item.current.clone()?))).collect()
    }

    /// Puts back what was made or written, and says whether it can be this item's.
    pub(super) fn set_current(&mut self, key: u16, bytes: Vec<u8>) -> bool {
        self.item_mut(key).is_some_and(|item| item.set_current(bytes))
    }

    fn item(&self, key: u16) -> Option<&Item> {
        match file_index(key) {
            Some(index) => self.files.get(index).map(|(_, item)| item),
            None => self.fixed.get(&key),
        }
    }

    fn item_mut(&mut self, key: u16) -> Option<&mut Item> {
        match file_index(key) {
            Some(index) => self.files.get_mut(index).map(|(_, item)| item),
            None => self.fixed.get_mut(&key),
        }
    }
}

fn file_index(key: u16) -> Option<usize> {
    let index = key.checked_sub(key::FIRST_FILE)?;
    (key < key::END_OF_FILES).then_some(index.into())
}
