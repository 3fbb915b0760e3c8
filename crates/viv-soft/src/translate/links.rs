//! Branches from trace to trace.

use std::mem;

use super::Translator;
use super::frame::page_slot;
use super::parts::{Edge, EdgeId, Slot, TraceId};

impl Translator {
    /// Makes a branch lead straight to a trace, which is what it was found to come to.
    pub fn link(&mut self, edge: EdgeId, to: TraceId) {
        let Edge { from, leaves_page, site: Some(site), page_site, to: old, .. } = *self.parts.edge(edge)
        else {
            return;
        };
        let page = |slot: Slot| self.pages[slot as usize].as_ref().map(|page| page.source.phys);
        let Some(record) = self.parts.trace(to) else { return };
        // A guest may change what is mapped where it runs, without a word to the TLB. (The page in another mode is
        // another slot.)
        if old == Some(to) || (!leaves_page && page(from) != page(record.slot)) {
            return;
        }
        let slot = record.slot;
        let entry = if leaves_page { record.entry } else { record.entry_in_page };
        if let Some(old) = old {
            self.forget_incoming(old, edge);
        }
        let Some(record) = self.parts.trace_mut(to) else { return };
        let next = mem::replace(&mut record.incoming, edge);
        if let Some(page_site) = page_site {
            self.parts.arena.patch(page_site, page_slot(slot).disp.to_le_bytes());
        }
        self.parts.arena.patch(site, entry.wrapping_sub(site + 4).to_le_bytes());
        let edge = self.parts.edge_mut(edge);
        (edge.to, edge.next) = (Some(to), next);
    }

    /// Makes a branch leave.
    pub(super) fn unlink(&mut self, edge: EdgeId) {
        let edge = self.parts.edge_mut(edge);
        edge.to = None;
        let Edge { site, page_site, exit, .. } = *edge;
        if let Some(page_site) = page_site {
            self.parts.arena.patch(page_site, page_slot(0).disp.to_le_bytes());
        }
        if let Some(site) = site {
            self.parts.arena.patch(site, exit.wrapping_sub(site + 4).to_le_bytes());
        }
    }

    /// Makes every branch leave.
    pub fn unlink_all(&mut self) {
        for part in 0..self.parts.len() {
            for edge in self.parts.edges_of(part) {
                if let Some(to) = self.parts.edge(edge).to {
                    self.unlink(edge);
                    self.forget_incoming(to, edge);
                }
            }
        }
        self.unmap_all();
    }

    /// Takes an edge off the list of those that lead to a trace.
    pub(super) fn forget_incoming(&mut self, trace: TraceId, edge: EdgeId) {
        self.keep_incoming(trace, |other| other != edge);
    }

    /// Takes edges off that list.
    pub(super) fn keep_incoming(&mut self, trace: TraceId, keep: impl Fn(EdgeId) -> bool) {
        let Some(record) = self.parts.trace(trace) else { return };
        let mut at = record.incoming;
        let mut last = 0;
        while at != 0 {
            let next = self.parts.edge(at).next;
            if keep(at) {
                last = at;
            } else if last != 0 {
                self.parts.edge_mut(last).next = next;
            } else if let Some(record) = self.parts.trace_mut(trace) {
                record.incoming = next;
            }
            at = next;
        }
    }

    /// Makes every branch that leads to a trace leave.
    pub(super) fn unlink_incoming(&mut self, first: EdgeId) {
        let mut edge = first;
        while edge != 0 {
            let next = self.parts.edge(edge).next;
            self.unlink(edge);
            edge = next;
        }
    }
}
