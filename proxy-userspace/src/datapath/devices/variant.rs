//! The programs for packets, loaded once for each kind of device that there is.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow};
use aya::{Ebpf, programs::SchedClassifier};

use super::{
    super::{
        Settings, kernel, log,
        object::{self, Constants},
        pins::Pins,
    },
    Direction,
};
use crate::host::devices::{Device, Side};

/// What is told to the programs of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Variant {
    side: Side,
    header: u32,
}

impl From<&Device> for Variant {
    fn from(device: &Device) -> Self {
        Self { side: device.side, header: device.header }
    }
}

/// Loaded programs by variant.
pub(super) struct Variants {
    settings: Settings,
    pins: Pins,
    cookie: Option<u64>,
    /// A failure is kept: the verifier may take long, and would say the same for each device.
    loaded: BTreeMap<Variant, Result<Ebpf>>,
}

impl Variants {
    pub(super) fn new(settings: Settings, pins: Pins) -> Result<Self> {
        Ok(Self { settings, pins, cookie: kernel::netns_cookie()?, loaded: BTreeMap::new() })
    }

    /// Loads what these devices need and is not loaded.
    pub(super) fn prepare<'a>(&mut self, devices: impl Iterator<Item = &'a Device>) {
        for variant in devices.map(Variant::from) {
            if !self.loaded.contains_key(&variant) {
                let loaded = self.load(variant);
                self.loaded.insert(variant, loaded);
            }
        }
    }

    /// Has what failed to load be tried again.
    pub(super) fn forget_failures(&mut self) {
        self.loaded.retain(|_, loaded| loaded.is_ok());
    }

    fn load(&self, variant: Variant) -> Result<Ebpf> {
        let settings = &self.settings;
        let constants = Constants::new(self.cookie, false, settings.log_decisions, settings.packets);
        let mut ebpf = verify(variant, constants, &settings.sizes(), Some(&self.pins))?;
        if settings.log_decisions {
            log::pass_on(&mut ebpf)?;
        }
        Ok(ebpf)
    }

    /// The program for a device.
    pub(super) fn program(&mut self, device: &Device, way: Direction) -> Result<&mut SchedClassifier> {
        match self.loaded.get_mut(&Variant::from(device)).context("prepared before")? {
            Ok(ebpf) => program_mut(ebpf, way.program()),
            Err(error) => Err(anyhow!("{error:#}")),
        }
    }
}

/// Loads the object and has the kernel verify the programs for packets.
fn verify(
    variant: Variant,
    constants: Constants,
    sizes: &[(&'static str, u32)],
    pins: Option<&Pins>,
) -> Result<Ebpf> {
    let constants = constants.of_device(variant.header, variant.side == Side::Pod);
    let mut ebpf = object::open(&constants, sizes, pins)?;
    for way in Direction::ALL {
        let name = way.program();
        object::verified(name, program_mut(&mut ebpf, name)?.load())?;
    }
    Ok(ebpf)
}

fn program_mut<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    ebpf.program_mut(name)
        .with_context(|| format!("the object has no program {name}"))?
        .try_into()
        .with_context(|| format!("the program {name} is of another type"))
}

/// Tries to load the programs of every variant, with small maps and without pins; leaves nothing behind.
///
/// # Errors
/// When they do not load.
pub fn probe() -> Result<()> {
    let cookie = kernel::netns_cookie()?;
    let (constants, sizes) = object::tiny(cookie);
    for side in [Side::Pod, Side::Outside] {
        for header in [14, 0] {
            verify(Variant { side, header }, constants, &sizes, None)?;
        }
    }
    Ok(())
}
