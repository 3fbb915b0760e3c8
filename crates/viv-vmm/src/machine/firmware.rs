//! Machines that start with firmware.

use std::fs::File;
use std::io::{Read, Seek};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use viv_arch::VcpuState;
use viv_boot::firmware::{self, FirmwareTables};
use viv_boot::{BootError, SmbiosParameters, SystemIdentity, smbios};
use viv_devices::fw_cfg::{Content, FwCfg, MachineFacts};
use viv_devices::pflash::{FileStore, FlashStore, MemoryStore, Pflash};
use viv_devices::{Device, DeviceError, SavedState, layout};
use viv_engine::{GuestMemory, memory};
use vm_memory::{Bytes, GuestAddress};

use super::acpi::Described;
use super::assembly::{Assembly, memory_end};
use super::{acpi, boot};
use crate::config::{BootDevice, Fds, FirmwareConfig, VariablesConfig};
use crate::error::MachineError;

/// How much room the ACPI tables can grow by once firmware has placed what they describe.
const TABLES_ROOM: usize = 4096;

/// One of the files that tables come in.
type Part = fn(FirmwareTables) -> Vec<u8>;

/// Firmware, in memory that the guest cannot write.
#[derive(Clone)]
pub(crate) struct Firmware {
    memory: GuestMemory,
    place: Range<u64>,
}

impl Firmware {
    /// Reads the image that `config` names.
    pub(crate) fn open(config: &FirmwareConfig, fds: &Fds) -> Result<Self, MachineError> {
        let mut file = boot::open("firmware", &config.image, fds)?;
        let mut image = Vec::new();
        file.rewind()
            .and_then(|()| file.take(firmware::MAX_IMAGE + 1).read_to_end(&mut image))
            .map_err(MachineError::host("read the firmware"))?;
        let start = firmware::image_start(image.len() as u64)?;
        let memory = memory::read_only(start, &image).map_err(MachineError::host("map the firmware"))?;
        Ok(Self { memory, place: start..start + image.len() as u64 })
    }

    /// Where it lies, for the engine.
    pub(crate) fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Puts into RAM, which is zero, what is there after power-on, and gives the state in which vCPU 0 starts.
    pub(crate) fn load(&self, memory: &GuestMemory) -> Result<VcpuState, MachineError> {
        firmware::shadow(memory, &self.content().map_err(MachineError::host("read the firmware"))?)?;
        Ok(VcpuState::reset())
    }

    fn content(&self) -> std::io::Result<Vec<u8>> {
        let mut content = vec![0; (self.place.end - self.place.start) as usize];
        self.memory
            .read_slice(&mut content, GuestAddress(self.place.start))
            .map_err(std::io::Error::other)?;
        Ok(content)
    }
}

/// The firmware as a device, for what a machine that is saved has to keep: one that is restored goes on with the same
/// firmware, whatever has become of the file.
impl Device for Firmware {
    fn name(&self) -> &str {
        "firmware"
    }

    fn reset(&mut self) {}

    fn save(&self) -> Result<SavedState, DeviceError> {
        let content = self.content().map_err(|error| self.invalid(error.to_string()))?;
        SavedState::encode(self.name(), 1, &content)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let content: Vec<u8> = state.decode(1)?;
        if content.len() as u64 != self.place.end - self.place.start {
            return Err(self.invalid(format!("it has {} bytes", content.len())));
        }
        let written = self.memory.write_slice(&content, GuestAddress(self.place.start));
        written.map_err(|error| self.invalid(error.to_string()))
    }
}

impl Firmware {
    fn invalid(&self, reason: String) -> DeviceError {
        DeviceError::Invalid { name: self.name().to_owned(), reason }
    }
}

impl Assembly<'_> {
    /// Adds firmware and the device by which it learns of its machine: after all others, which it is told of.
    pub(crate) fn add_firmware(
        &mut self,
        firmware: &Firmware,
        config: &FirmwareConfig,
        variables: Option<File>,
        described: &Described,
    ) -> Result<(), MachineError> {
        let memory = &self.around.ram;
        let present = described.processors.present();
        let count = |count: usize| u16::try_from(count).unwrap_or(u16::MAX);
        let facts = MachineFacts {
            uuid: [0; 16],
            ram_size: vm_memory::GuestMemoryBackend::iter(memory)
                .map(vm_memory::GuestMemoryRegion::len)
                .sum(),
            cpus: count(present.iter().filter(|present| **present).count()),
            max_cpus: count(present.len()),
            display: described.display,
            boot_menu: false,
        };
        let mut device = FwCfg::new(self.around.memory.clone(), &facts);
        device.add_file(firmware::E820, Content::Bytes(firmware::e820(memory)))?;
        let end = memory_end(&self.around.memory);
        if end > memory_end(memory) {
            device.add_file(firmware::RESERVED_END, Content::Bytes(end.to_le_bytes().to_vec()))?;
        }
        device.add_file("bootorder", Content::Bytes(self.boot_order(&config.boot_order)))?;
        // SeaBIOS shows its screen, and what starts from it, on this serial port too.
        let port = layout::UART0.to_le_bytes().to_vec();
        device.add_file("etc/sercon-port", Content::Bytes(port))?;
        self.add_tables(&mut device, described)?;
        let parameters = SmbiosParameters::new(SystemIdentity::default(), facts.cpus.into(), memory);
        let tables = smbios::build(&parameters).map_err(BootError::from)?;
        device.add_file(smbios::ANCHOR_FILE, Content::Bytes(tables.anchor_64(0).to_vec()))?;
        device.add_file(smbios::STRUCTURES_FILE, Content::Bytes(tables.structures().to_vec()))?;
        if let (Some(told), Some(file)) = (&config.variables, variables) {
            self.add_variables(told, file, firmware.place.start)?;
        }
        self.board.add(Arc::new(Mutex::new(device)), &FwCfg::PORTS)?;
        self.board.add(Arc::new(Mutex::new(firmware.clone())), &[])
    }

    /// Flash memory for variables in `file`, which ends at `end`.
    fn add_variables(&mut self, config: &VariablesConfig, file: File, end: u64) -> Result<(), MachineError> {
        let path = &config.path;
        let failed = |source| MachineError::Open { what: "firmware's variables", path: path.clone(), source };
        let mut store: Box<dyn FlashStore> = Box::new(FileStore::new(file));
        if !config.keep {
            store = Box::new(MemoryStore::new(store.load().map_err(failed)?));
        }
        let flash = Pflash::new(0, store)?;
        let place = end.saturating_sub(flash.size())..end;
        let flash = Arc::new(Mutex::new(flash));
        self.board.add(flash.clone(), &[])?;
        self.board.map_memory(place, flash)
    }

    /// The ACPI tables, which are made once firmware has placed what they describe.
    fn add_tables(&self, device: &mut FwCfg, described: &Described) -> Result<(), MachineError> {
        let sizes =
            firmware::tables(&acpi::parameters(described, self.board.pci())).map_err(BootError::from)?;
        let files: [(&str, usize, Part); 3] = [
            (firmware::RSDP, sizes.rsdp.len(), |tables| tables.rsdp),
            (firmware::TABLES, sizes.tables.len() + TABLES_ROOM, |tables| tables.tables),
            (firmware::LOADER, sizes.loader.len(), |tables| tables.loader),
        ];
        for (name, size, part) in files {
            let (pci, described) = (self.board.pci().clone(), described.clone());
            let make = move || {
                // They could be expressed before; if firmware has made that impossible, it gets none.
                firmware::tables(&acpi::parameters(&described, &pci)).map(part).unwrap_or_default()
            };
            let size = u32::try_from(size).unwrap_or(u32::MAX);
            device.add_file(name, Content::Made { size, make: Box::new(make) })?;
        }
        Ok(())
    }

    /// The paths of the devices to start from, in Open Firmware's form, one after the other with a zero at the end.
    fn boot_order(&self, first: &[BootDevice]) -> Vec<u8> {
        let rest = [BootDevice::Disk, BootDevice::Cdrom].into_iter().filter(|kind| !first.contains(kind));
        let paths: Vec<&str> = first
            .iter()
            .copied()
            .chain(rest)
            .flat_map(|kind| self.boot_paths.iter().filter(move |(of, _)| *of == kind))
            .map(|(_, path)| path.as_str())
            .collect();
        [paths.join("\n").as_bytes(), &[0]].concat()
    }
}
