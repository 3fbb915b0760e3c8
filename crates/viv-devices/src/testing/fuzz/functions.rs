//! The bus with each function alone, and with all of them.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};

use viv_disk::Disk;
use viv_vhost::{BackEnd, PATIENCE};

use super::backends::{Memory, Moody};
use super::bench::{Bench, Outside};
use super::heard::Heard;
use super::{Area, Target, drivers};
use crate::ahci::{Ahci, AtaDisk, Cdrom, Drive};
use crate::bus::PortRange;
use crate::irq::IrqLine;
use crate::irqchip::{IrqChip, IrqChipDevice};
use crate::layout;
use crate::pci::{Connections, IntxLine, Lpc, PciBus, PciDevice, PciHost, Pirqs, Placing, Windows};
use crate::testing::{Alarm, Calls};
use crate::vga::{Display, VgaFunction, VgaLegacy};
use crate::virtio::testing_back_end::{Fake, lock};
use crate::virtio::{
    self, Balloon, Block, BlockSettings, Console, Entropy, Limits, Net, NetBackend, NetConfig, Pmem,
    PortConfig, ResizeOrder, Shared, Throttle, Throttles, VhostUser, VhostUserKind, VirtioDevice, VirtioPci,
    Vsock, VsockHost, VsockStream,
};

/// Where the machine puts the registers of a function that is alone.
pub(super) const BAR: u64 = 0xc000_0000;
/// Its configuration space.
pub(super) const CONFIG: u64 = layout::PCI_ECAM_BASE + (1 << 15);
/// Where it puts 64-bit BARs.
const HIGH: u64 = layout::PCI_MMIO64_BASE;
/// A disk's bytes.
const DISK: usize = 1 << 16;

pub(super) const AHCI: Target = Target {
    programs: 40,
    make: || {
        let mut bench = Bench::new();
        let (host, bus) = pci_host(Placing::Machine);
        let line = bench.heard.clone();
        add_ahci(&mut bench, &bus, 1, line);
        bench.add_pci_host(host, &bus);
        bench
    },
    areas: &[Area::Memory(BAR, 0x440), Area::Memory(BAR, 0x440), Area::Memory(CONFIG, 0x100)],
    prologue: drivers::start_ahci,
    idiom: drivers::ahci,
};

pub(super) const VIRTIO_BLK: Target = Target {
    programs: 40,
    make: || {
        let mut bench = Bench::new();
        let block = block(&mut bench);
        bench.outside = Some(Box::new(Limited(block.clone())));
        lone_virtio(bench, block)
    },
    areas: &[
        Area::Memory(BAR, 0x40),
        Area::Memory(BAR, 0x6000),
        Area::Memory(BAR + 0x3000, 0x20),
        Area::Memory(CONFIG, 0x100),
    ],
    prologue: drivers::start_virtio,
    idiom: drivers::virtio_blk,
};

pub(super) const VIRTIO_CONSOLE: Target = Target {
    make: || {
        let mut bench = Bench::new();
        let console = console(&mut bench);
        bench.outside = Some(Box::new(Window(console.clone())));
        lone_virtio(bench, console)
    },
    idiom: drivers::virtio_console,
    ..VIRTIO_BLK
};

pub(super) const VIRTIO_NET: Target = Target {
    make: || {
        let mut bench = Bench::new();
        let net = net(&mut bench, 1);
        bench.outside = Some(Box::new(Cable(net.clone())));
        lone_virtio(bench, net)
    },
    idiom: drivers::virtio_net,
    ..VIRTIO_BLK
};

/// An interface that another process serves.
pub(super) const VIRTIO_VHOST_USER: Target = Target {
    programs: 8,
    make: || {
        let mut bench = Bench::new();
        let (socket, fake) = Fake::start(0, 2, &[]);
        let back_end = BackEnd::connect(socket, VhostUser::MAX_QUEUES, PATIENCE).unwrap();
        let kind = VhostUserKind::Net { mac: [2, 0, 0, 0, 0, 1] };
        let device = Arc::new(Mutex::new(VhostUser::new(kind, back_end).unwrap()));
        bench.outside = Some(Box::new(Server { device: device.clone(), fake }));
        lone_virtio(bench, device)
    },
    idiom: drivers::virtio_vhost_user,
    ..VIRTIO_BLK
};

pub(super) const VIRTIO_MEM: Target = Target {
    make: || {
        let mut bench = Bench::new();
        let start = drivers::REGION;
        let memory = virtio::Memory::new(bench.memory.clone(), start..start + 8 * virtio::MEMORY_BLOCK);
        let memory = Arc::new(Mutex::new(memory));
        bench.outside = Some(Box::new(Plugger(memory.clone())));
        lone_virtio(bench, memory)
    },
    idiom: drivers::virtio_mem,
    ..VIRTIO_BLK
};

/// A file whose flushes are counted, of which some fail.
pub(super) const VIRTIO_PMEM: Target = Target {
    make: || {
        let mut bench = Bench::new();
        let flushes = bench.store(vec![0]);
        let flush = move || {
            let count = &mut flushes.lock().unwrap()[0];
            *count = count.wrapping_add(1);
            if count.is_multiple_of(5) { Err(ErrorKind::Other.into()) } else { Ok(()) }
        };
        let pmem = Pmem::new("file".into(), 4 << 30..(4 << 30) + (2 << 20), Some(Box::new(flush)));
        lone_virtio(bench, Arc::new(Mutex::new(pmem)))
    },
    idiom: drivers::virtio_pmem,
    ..VIRTIO_BLK
};

pub(super) const VIRTIO_RNG: Target = Target {
    make: || {
        let mut bench = Bench::new();
        let entropy = entropy(&bench);
        bench.outside = Some(Box::new(Drained(entropy.clone())));
        lone_virtio(bench, entropy)
    },
    idiom: drivers::virtio_rng,
    ..VIRTIO_BLK
};

pub(super) const VIRTIO_VSOCK: Target = Target {
    make: || {
        let mut bench = Bench::new();
        let (vsock, asked) = vsock(&mut bench);
        bench.outside = Some(Box::new(asked));
        lone_virtio(bench, vsock)
    },
    idiom: drivers::virtio_vsock,
    ..VIRTIO_BLK
};

pub(super) const VIRTIO_BALLOON: Target = Target {
    make: || {
        let mut bench = Bench::new();
        let balloon: Shared<Balloon> = Arc::default();
        bench.outside = Some(Box::new(Host(balloon.clone())));
        lone_virtio(bench, balloon)
    },
    idiom: drivers::virtio_balloon,
    ..VIRTIO_BLK
};

pub(super) const VGA: Target = Target {
    programs: 4,
    make: || {
        let mut bench = Bench::new();
        let (host, bus) = pci_host(Placing::Machine);
        add_vga(&mut bench, &bus, 1);
        bench.add_pci_host(host, &bus);
        bench
    },
    areas: &[
        Area::Ports(0x3c0, 0x20),
        Area::Ports(0x1ce, 4),
        Area::Memory(layout::VGA_MEMORY.start, layout::VGA_MEMORY.end - layout::VGA_MEMORY.start),
        // The frame buffer, and the registers after it.
        Area::Memory(BAR, 16 << 20),
        Area::Memory(BAR + (16 << 20), 0x1000),
        Area::Memory(CONFIG, 0x100),
    ],
    prologue: drivers::enable_function,
    idiom: drivers::vga,
};

pub(super) const PCI: Target = Target {
    programs: 4,
    make: || every_function(Placing::Machine),
    areas: &[
        Area::Ports(layout::PCI_CONFIG_ADDRESS, 8),
        Area::Memory(layout::PCI_ECAM_BASE, 8 << 15),
        Area::Memory(layout::PCI_ECAM_BASE, layout::PCI_ECAM_SIZE),
        Area::Memory(BAR, 32 << 20),
        Area::Memory(HIGH, 1 << 20),
        Area::Ports(layout::PCI_IO.start, 0x400),
    ],
    prologue: drivers::enable_functions,
    idiom: drivers::pci,
};

/// As firmware finds it: nothing has an address yet.
pub(super) const PCI_FIRMWARE: Target = Target { make: || every_function(Placing::Firmware), ..PCI };

fn pci_host(placing: Placing) -> (PciHost, PciBus) {
    let end = layout::PCI_ECAM_BASE + layout::PCI_ECAM_SIZE;
    let windows = Windows { memory32: BAR..end, memory64: HIGH..2 * HIGH, ports: layout::PCI_IO };
    let bus = PciBus::new(windows, placing);
    (bus.host(), bus)
}

impl Bench {
    /// Puts the bus in its places, with all of its functions.
    fn add_pci_host(&mut self, host: PciHost, bus: &PciBus) {
        let memory = host.memory();
        let (io, data) = (layout::PCI_IO, PciHost::CONFIG_DATA_PORTS);
        let ports = [
            PortRange::new(*data.start(), data.end() - data.start() + 1),
            PortRange::new(io.start, io.end - io.start),
        ];
        let host = self.add(host, &ports);
        self.map_dword_port(PciHost::CONFIG_ADDRESS_PORT, host.clone());
        self.map_memory(memory.start, memory.end - memory.start, host);
        let high = bus.high_window();
        let memory = high.memory();
        let high = self.add(high, &[]);
        self.map_memory(memory.start, memory.end - memory.start, high);
    }

    fn connections(&self, line: Arc<dyn IntxLine>) -> Connections {
        Connections { memory: self.memory.clone(), msi: self.heard.clone(), line, line_number: 10 }
    }
}

/// A function's INTA#, by way of the wires of the bus.
struct Pin(IrqLine);

impl IntxLine for Pin {
    fn set(&self, asserted: bool) {
        self.0.set(asserted);
    }
}

fn every_function(placing: Placing) -> Bench {
    let mut bench = Bench::new();
    let chip = IrqChip::new(bench.heard.clone(), bench.heard.clone());
    bench.add(IrqChipDevice::new(chip.clone()), &IrqChip::PORTS);
    let pirqs = Pirqs::new(chip);
    let (host, bus) = pci_host(placing);
    bus.add(layout::LPC_SLOT, Box::new(Lpc::new(pirqs.clone()))).unwrap();
    let pin = |slot| Arc::new(Pin(pirqs.line(slot)));
    add_vga(&mut bench, &bus, 1);
    add_ahci(&mut bench, &bus, 2, pin(2));
    let block = block(&mut bench);
    add_virtio(&mut bench, &bus, 3, "virtio-blk0", block, pin(3));
    let console = console(&mut bench);
    add_virtio(&mut bench, &bus, 4, "virtio-console0", console, pin(4));
    let entropy = entropy(&bench);
    add_virtio(&mut bench, &bus, 5, "virtio-rng0", entropy, pin(5));
    add_virtio(&mut bench, &bus, 6, "virtio-balloon0", Shared::<Balloon>::default(), pin(6));
    let net = net(&mut bench, 2);
    add_virtio(&mut bench, &bus, 7, "virtio-net0", net, pin(7));
    bench.add_pci_host(host, &bus);
    bench
}

fn lone_virtio(mut bench: Bench, device: Shared<dyn VirtioDevice>) -> Bench {
    let (host, bus) = pci_host(Placing::Machine);
    let line = bench.heard.clone();
    add_virtio(&mut bench, &bus, 1, "virtio0", device, line);
    bench.add_pci_host(host, &bus);
    bench
}

fn add_virtio(
    bench: &mut Bench,
    bus: &PciBus,
    slot: u8,
    name: &str,
    device: Shared<dyn VirtioDevice>,
    line: Arc<dyn IntxLine>,
) {
    let function = VirtioPci::new(name, device, bench.connections(line)).unwrap();
    bench.workers.push(function.worker());
    bus.add(slot, Box::new(function)).unwrap();
}

fn add_ahci(bench: &mut Bench, bus: &PciBus, slot: u8, line: Arc<dyn IntxLine>) {
    let mut disk = |read_only| {
        let store = bench.store((0..DISK).map(|at| (at >> 9) as u8).collect());
        Box::new(Memory { store, heard: bench.heard.clone(), read_only })
    };
    let drives = [
        Some(Drive::Disk(AtaDisk::new(disk(false), "disk0"))),
        Some(Drive::Cdrom(Cdrom::new(Some(disk(true)), "cd0"))),
        Some(Drive::Cdrom(Cdrom::new(None, "cd1"))),
        Some(Drive::Disk(AtaDisk::new(disk(true), "disk1"))),
        None,
        None,
    ];
    let function = Ahci::new("ahci0", drives, bench.connections(line)).unwrap();
    bench.workers.push(function.worker());
    assert_eq!(function.config().bar(5).map(|bar| bar.size), Some(0x1000));
    bus.add(slot, Box::new(function)).unwrap();
}

fn add_vga(bench: &mut Bench, bus: &PciBus, slot: u8) {
    let display = Display::new();
    bus.add(slot, Box::new(VgaFunction::new(&display, None).unwrap())).unwrap();
    let legacy = bench.add(VgaLegacy::new(&display), &VgaLegacy::PORTS);
    let memory = VgaLegacy::MEMORY;
    bench.map_memory(memory.start, memory.end - memory.start, legacy);
    bench.outside = Some(Box::new(Screen { display, heard: bench.heard.clone() }));
}

fn block(bench: &mut Bench) -> Shared<Block> {
    let store = bench.store((0..DISK).map(|at| (at >> 9) as u8).collect());
    let disk: Arc<dyn Disk> = Arc::new(Memory { store, heard: bench.heard.clone(), read_only: false });
    let throttle = Some(throttle(bench, 200, 1 << 22));
    let settings =
        BlockSettings { serial: "serial".to_owned(), queues: 2, throttle, ..BlockSettings::default() };
    Arc::new(Mutex::new(Block::new(&disk, Calls::to(&disk), settings)))
}

/// Limits that programs come up against.
fn throttle(bench: &Bench, requests: u64, bytes: u64) -> Throttle {
    let limits = Limits { requests: NonZeroU64::new(requests), bytes: NonZeroU64::new(bytes) };
    Throttle::new(limits, bench.clock.clone(), Arc::<Alarm>::default())
}

fn console(bench: &mut Bench) -> Shared<Console> {
    let ports = (0..3).map(|index: u8| {
        let store = bench.store(vec![index + 1; 8]);
        let backend = Box::new(Moody { store, heard: bench.heard.clone() });
        PortConfig { name: format!("port{index}"), console: index == 0, backend }
    });
    Arc::new(Mutex::new(Console::new(ports.collect(), ResizeOrder::default())))
}

fn net(bench: &mut Bench, pairs: usize) -> Shared<Net> {
    let backends = (0..pairs).map(|index| {
        let store = bench.store(vec![index as u8 + 1; 8]);
        Box::new(Moody { store, heard: bench.heard.clone() }) as Box<dyn NetBackend>
    });
    let backends = backends.collect();
    let throttles =
        Some(Throttles { receive: throttle(bench, 200, 1 << 18), transmit: throttle(bench, 100, 1 << 16) });
    let config = NetConfig { mac: [2, 0, 0, 0, 0, 1], mtu: Some(1500), backends, throttles };
    Arc::new(Mutex::new(Net::new(config)))
}

/// Random numbers that a copy has too.
fn entropy(bench: &Bench) -> Shared<Entropy> {
    let source = |data: &mut [u8]| {
        data.fill(0x5a);
        data.len()
    };
    Arc::new(Mutex::new(Entropy::with_source(source, Some(throttle(bench, 100, 1 << 14)))))
}

/// Sockets of many moods, and what is asked of the host.
fn vsock(bench: &mut Bench) -> (Shared<Vsock>, Sockets) {
    let moods = Moody { store: bench.store(vec![3; 8]), heard: bench.heard.clone() };
    let asked = Asked::default();
    let vsock = Arc::new(Mutex::new(Vsock::new(drivers::CID as u32, Box::new(asked.clone()))));
    (vsock.clone(), Sockets { vsock, asked, open: Vec::new(), moods })
}

struct Window(Shared<Console>);

impl Outside for Window {
    fn happen(&mut self, what: u64) {
        let mut console = self.0.lock().unwrap();
        if what & 1 == 0 {
            console.process_port((what >> 8) as usize % 4);
        } else {
            console.resize((what >> 8) as u16, (what >> 24) as u16);
        }
    }
}

struct Cable(Shared<Net>);

impl Outside for Cable {
    fn happen(&mut self, what: u64) {
        let mut net = self.0.lock().unwrap();
        match what & 7 {
            0 => net.announce(),
            1 => net.set_link(what & 0x100 != 0),
            2 => net.resume(),
            _ => net.process_pair((what >> 8) as usize % 3),
        }
    }
}

/// A process that serves an interface.
struct Server {
    device: Shared<VhostUser>,
    fake: Arc<Mutex<Fake>>,
}

impl Outside for Server {
    fn happen(&mut self, what: u64) {
        let mut fake = lock(&self.fake);
        let (queue, mut count) = ((what >> 4) as usize & 1, what >> 8 & 7);
        while count > 0
            && let Some(head) = fake.take_head(queue)
        {
            fake.give_back_head(queue, head, (what >> 16) as u32);
            count -= 1;
        }
        drop(fake);
        let mut device = self.device.lock().unwrap();
        if what & 3 == 0 {
            device.rest();
            device.go_on();
        }
        device.process_called();
    }
}

/// A host that gives memory, or wants it back.
struct Plugger(Shared<virtio::Memory>);

impl Outside for Plugger {
    fn happen(&mut self, what: u64) {
        self.0.lock().unwrap().set_requested((what >> 8) % 10 * virtio::MEMORY_BLOCK);
    }
}

/// A host that wants memory, and to know about it.
struct Host(Shared<Balloon>);

impl Outside for Host {
    fn happen(&mut self, what: u64) {
        let mut balloon = self.0.lock().unwrap();
        if what & 1 == 0 {
            balloon.ask_statistics();
        } else {
            balloon.set_target((what >> 8) as u32);
        }
    }
}

struct Drained(Shared<Entropy>);

impl Outside for Drained {
    fn happen(&mut self, _what: u64) {
        self.0.lock().unwrap().resume();
    }
}

/// What a guest asked of its host.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<VecDeque<u64>>>);

impl VsockHost for Asked {
    fn connect(&mut self, connection: u64, port: u32) -> bool {
        let answers = port != 0;
        if answers {
            self.0.lock().unwrap().push_back(connection);
        }
        answers
    }

    fn forget(&mut self, connection: u64) {
        self.0.lock().unwrap().retain(|asked| *asked != connection);
    }
}

/// Programs of the host at the other ends of sockets.
struct Sockets {
    vsock: Shared<Vsock>,
    asked: Asked,
    open: Vec<u64>,
    moods: Moody,
}

impl Sockets {
    fn stream(&self) -> Box<dyn VsockStream> {
        Box::new(Moody { store: self.moods.store.clone(), heard: self.moods.heard.clone() })
    }
}

impl Outside for Sockets {
    fn happen(&mut self, what: u64) {
        let mut vsock = self.vsock.lock().unwrap();
        match what & 3 {
            0 => self.open.extend(vsock.connect(self.stream(), (what >> 8) as u32 % 4)),
            1 | 2 => {
                let Some(connection) = self.asked.0.lock().unwrap().pop_front() else { return };
                vsock.answer(connection, (what & 0x700 != 0).then(|| self.stream()));
                self.open.push(connection);
            }
            _ => {
                let count = self.open.len().max(1);
                if let Some(&connection) = self.open.get((what >> 8) as usize % count) {
                    vsock.process_stream(connection);
                }
            }
        }
    }

    /// Connections do not move.
    fn settle(&mut self) {
        self.vsock.lock().unwrap().lose_connections();
        self.asked.0.lock().unwrap().clear();
        self.open.clear();
    }
}

struct Limited(Shared<Block>);

impl Outside for Limited {
    fn happen(&mut self, what: u64) {
        let mut block = self.0.lock().unwrap();
        if what & 1 == 0 { block.resume() } else { block.drain() }
    }
}

struct Screen {
    display: Display,
    heard: Arc<Heard>,
}

impl Outside for Screen {
    fn happen(&mut self, _what: u64) {
        let frame = self.display.frame();
        assert_eq!(frame.pixels.len(), 3 * frame.width * frame.height);
        let sum = frame.pixels.iter().fold(0_u32, |sum, &byte| sum.rotate_left(1) ^ u32::from(byte));
        self.heard.bytes(&sum.to_le_bytes());
        if let Some(lines) = self.display.text() {
            self.heard.bytes(lines.concat().as_bytes());
        }
    }
}
