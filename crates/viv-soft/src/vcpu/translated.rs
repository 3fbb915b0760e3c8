//! The translator in the run loop: when code becomes hot, and how control passes from trace to trace.

use std::time::Instant;

use viv_engine::{EngineError, Translations};

use super::SoftVcpu;
use crate::block::BlockId;
use crate::cpu::{Cpu, Fault};
use crate::options::Tier;
use crate::region::CpuRegion;
use crate::tlb::View;
use crate::torture::Torturer;
use crate::translate::{Found, Left, Mode, TraceId, Translator, interpret};
use crate::window::Window;

/// How often a block is interpreted before it is translated.
const HOT: u8 = 2;

/// How often a page is reached by way of the TLB before it is mapped in the window. A mapping takes some 4 µs, which is
/// what so many lookups cost more than the window.
const WORTH_A_MAPPING: u16 = 512;

/// What a vCPU has of translated code.
pub struct Translated {
    translator: Option<Translator>,
    threshold: u8,
    /// The edge by which translated code was left, if what follows is where it leads.
    edge: Option<u32>,
    /// The translation generation that links and mappings hold for.
    generation: u64,
    global_generation: u64,
    /// What was written to code when it was last looked at.
    code_writes: u64,
    /// What could run in the mode that targets of indirect branches are remembered for.
    features: u16,
}

impl Translated {
    pub fn new(cpu: &mut CpuRegion) -> Result<Self, EngineError> {
        let tier = cpu.shared.options.tier;
        let translator = match tier {
            Tier::Interpret => None,
            Tier::Translate | Tier::Auto => {
                Translator::new(cpu.shared.options.code_memory.bytes(), cpu.tables(), interpret).map_err(
                    |error| EngineError::Host {
                        action: "map memory for generated code",
                        source: std::io::Error::other(error),
                    },
                )?
            }
        };
        let torture = cpu.shared.options.torture;
        if translator.is_some() {
            let tables = cpu.window_tables();
            if let Some(window) = Window::new(tables, cpu.shared.vcpus()) {
                cpu.frame.window = window.address();
                let heat = if torture.is_some() { 1 } else { WORTH_A_MAPPING };
                cpu.tlb.set_window(window, heat);
            }
        }
        let threshold = if tier == Tier::Translate || torture.is_some() { 0 } else { HOT };
        cpu.torturer = torture.map(|torture| Torturer::new(torture, cpu.index));
        Ok(Self {
            translator,
            threshold,
            edge: None,
            generation: 0,
            global_generation: 0,
            code_writes: 0,
            features: 0,
        })
    }

    /// What comes next is not where the last trace left to.
    pub fn forget_edge(&mut self) {
        self.edge = None;
    }

    /// Instructions translated and not dropped.
    pub fn instructions(&self) -> usize {
        self.translator.as_ref().map_or(0, Translator::instructions)
    }

    /// What was done so far.
    pub fn counts(&self) -> Option<Translations> {
        self.translator.as_ref().map(Translator::counts)
    }

    /// Drops all translations.
    pub fn clear(&mut self) {
        self.edge = None;
        if let Some(translator) = &mut self.translator {
            translator.clear();
        }
    }

    /// Drops what does not hold any more.
    fn sync(&mut self, cpu: &Cpu) {
        let Some(translator) = &mut self.translator else { return };
        let code_writes = cpu.shared.code_writes();
        if code_writes != self.code_writes {
            self.code_writes = code_writes;
            self.edge = None;
            translator.drop_outdated();
        }
        let global_generation = cpu.tlb.global_generation();
        let generation = cpu.tlb.generation();
        if global_generation != self.global_generation {
            translator.unmap_all();
        } else if generation != self.generation {
            translator.change_space(self.generation, generation);
        }
        self.global_generation = global_generation;
        self.generation = generation;
    }
}

/// What there is to run a block by.
enum Hot {
    Trace(TraceId, Mode),
    /// The interpreter.
    Cold,
    /// Nothing: the block itself is gone, because there was no room for a trace.
    Dropped,
}

impl SoftVcpu {
    /// Runs the block, as host code if it is hot.
    #[inline]
    pub(super) fn advance(&mut self, id: BlockId) -> Result<(), Fault> {
        if self.cpu.torturer.is_some() && self.torment() {
            return Ok(());
        }
        if self.translated.translator.is_some() {
            match self.hot(id) {
                Hot::Trace(trace, mode) => return self.run_trace(trace, mode),
                Hot::Cold => {}
                Hot::Dropped => return Ok(()),
            }
        }
        self.translated.edge = None;
        self.execute(id, false)
    }

    /// At random moments, drops what may be dropped at any. Says whether that was the block that was to run.
    #[cold]
    fn torment(&mut self) -> bool {
        let Translated { translator, edge, .. } = &mut self.translated;
        let Cpu { torturer: Some(torturer), tlb, .. } = &mut *self.cpu else { return false };
        if torturer.once_in(64) {
            tlb.flush_all();
        }
        if torturer.once_in(1024)
            && let Some(translator) = translator
        {
            *edge = None;
            translator.unlink_all();
        }
        if torturer.once_in(1024)
            && let Some(translator) = translator
        {
            *edge = None;
            translator.evict_oldest();
        }
        if torturer.once_in(256)
            && let Some(translator) = translator
        {
            *edge = None;
            translator.go_on();
        }
        if torturer.once_in(8192) {
            self.drop_code();
            return true;
        }
        false
    }

    /// The trace for a block, if it is hot enough to have one.
    fn hot(&mut self, id: BlockId) -> Hot {
        self.translated.sync(&self.cpu);
        let block = self.blocks.get_mut(id);
        if block.heat < self.translated.threshold {
            block.heat += 1;
            return Hot::Cold;
        }
        let mode = Mode::of(&self.cpu);
        if mode.features() != self.translated.features {
            // The table of branch targets does not know of them.
            self.translated.features = mode.features();
            if let Some(translator) = &mut self.translated.translator {
                translator.unmap_all();
            }
        }
        let Some(translator) = &mut self.translated.translator else { return Hot::Cold };
        if let Some(trace) = block.trace(mode, translator.version()) {
            return Hot::Trace(trace, mode);
        }
        if !mode.is_translated() || block.is_left_alone {
            return Hot::Cold;
        }
        let phys = block.source.phys | self.cpu.exec.rip & viv_arch::paging::PAGE_OFFSET;
        let second = block.second.as_ref().map(|second| second.phys);
        let next = self.cpu.next_code_page(self.cpu.exec.rip);
        let next = self.cpu.tlb.fetched(next, self.cpu.cpl == 3).map(|fetched| fetched.phys);
        let is_short = self.cpu.torturer.as_mut().is_some_and(|torturer| torturer.once_in(2));
        let limit = if is_short { 1 } else { usize::MAX };
        let Some(translator) = &mut self.translated.translator else { return Hot::Cold };
        let version = translator.version();
        let found = match translator.find(phys, second, next, mode) {
            Found::Trace(trace) => Ok(Some(trace)),
            Found::Nothing => {
                let start = Instant::now();
                let translated = translator.translate(&mut self.cpu, phys, block, next, mode, limit);
                self.cpu.counts.nanoseconds += start.elapsed().as_nanos() as u64;
                translated
            }
            Found::Unsure => return Hot::Cold,
        };
        if translator.version() != version {
            // What the edge belongs to may have been dropped to make room.
            self.translated.edge = None;
        }
        match found {
            Ok(Some(trace)) => {
                // Where a loop runs into the next page, that is looked for each time.
                if second.is_some() || !translator.crosses(trace) {
                    block.set_trace(mode, trace, translator.version());
                }
                Hot::Trace(trace, mode)
            }
            Ok(None) => {
                block.is_left_alone = true;
                Hot::Cold
            }
            Err(_) => {
                self.drop_code();
                Hot::Dropped
            }
        }
    }

    fn run_trace(&mut self, trace: TraceId, mode: Mode) -> Result<(), Fault> {
        let cpu = &mut self.cpu;
        let linear = cpu.exec.rip;
        let global = cpu.translate_fetch(linear)?.global;
        let Translated { translator: Some(translator), edge, .. } = &mut self.translated else {
            return Ok(());
        };
        if translator.crosses(trace) {
            let next = cpu.next_code_page(linear);
            let global = cpu.translate_fetch(next)?.global;
            translator.map_second(trace, next, global);
        }
        translator.map(trace, linear, global, mode);
        if let Some(edge) = edge.take() {
            translator.link(edge, trace);
        }
        match translator.run(cpu, trace, mode) {
            Left::Edge(number) => *edge = Some(number),
            Left::Interpreted => {}
            Left::Fault => {
                self.map_hot_page();
                return Err(Fault);
            }
        }
        self.map_hot_page();
        Ok(())
    }

    /// Maps the page that translated code came to often, if there is one.
    fn map_hot_page(&mut self) {
        let cpu = &mut *self.cpu;
        let view = match std::mem::take(&mut cpu.frame.hot_view) {
            0 => return,
            1 => View::Supervisor,
            2 => View::SupervisorSmap,
            _ => View::User,
        };
        let entry = cpu.frame.hot_entry as usize;
        cpu.counts.mappings += u64::from(cpu.tlb.map_in_window(view, entry, &cpu.ram));
    }
}
