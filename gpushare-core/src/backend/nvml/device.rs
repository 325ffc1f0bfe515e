//! What NVML says of a whole GPU, and the two modes of it.

use nvml_wrapper_sys::bindings::{nvmlMemory_t, nvmlPciInfo_t};

use super::library::{Session, call, narrow, senseless, text};
use crate::id::{GpuUuid, MinorNumber, PciAddress, PciDeviceId};
use crate::mode::ComputeMode;
use crate::port::{Activation, MigMode, NvmlResult, NvmlReturn, PciInfo};
use crate::units::Bytes;

/// NVML's numbers of the compute modes.
const COMPUTE_MODES: [ComputeMode; 4] = [
    ComputeMode::Default,
    ComputeMode::ExclusiveThread,
    ComputeMode::Prohibited,
    ComputeMode::ExclusiveProcess,
];

const fn number(mode: ComputeMode) -> u32 {
    match mode {
        ComputeMode::Default => 0,
        ComputeMode::ExclusiveThread => 1,
        ComputeMode::Prohibited => 2,
        ComputeMode::ExclusiveProcess => 3,
    }
}

impl Session {
    pub(super) fn minor_number(&mut self, gpu: &GpuUuid) -> NvmlResult<MinorNumber> {
        let handle = self.handle(gpu)?;
        let mut minor = 0;
        call!(self.lib(), nvmlDeviceGetMinorNumber(handle, &mut minor))?;
        Ok(MinorNumber::new(minor))
    }

    pub(super) fn pci_info(&mut self, gpu: &GpuUuid) -> NvmlResult<PciInfo> {
        const CALL: &str = "nvmlDeviceGetPciInfo_v3";
        let handle = self.handle(gpu)?;
        let mut pci = nvmlPciInfo_t {
            busIdLegacy: [0; 16],
            domain: 0,
            bus: 0,
            device: 0,
            pciDeviceId: 0,
            pciSubSystemId: 0,
            busId: [0; 32],
        };
        call!(self.lib(), nvmlDeviceGetPciInfo_v3(handle, &mut pci))?;
        let address = match text(&pci.busId).parse() {
            Ok(address) => address,
            Err(_) => PciAddress::new(
                pci.domain,
                narrow(CALL, "the PCI bus", pci.bus)?,
                narrow(CALL, "the PCI device", pci.device)?,
                0,
            ),
        };
        let device_id = PciDeviceId::new(pci.pciDeviceId);
        Ok(PciInfo { address, device_id, subsystem_id: pci.pciSubSystemId })
    }

    pub(super) fn name(&mut self, gpu: &GpuUuid) -> NvmlResult<String> {
        let handle = self.handle(gpu)?;
        let mut name = [0; 96];
        let capacity = name.len() as u32;
        call!(self.lib(), nvmlDeviceGetName(handle, name.as_mut_ptr(), capacity))?;
        Ok(text(&name))
    }

    pub(super) fn memory_total(&mut self, gpu: &GpuUuid) -> NvmlResult<Bytes> {
        let handle = self.handle(gpu)?;
        let mut memory = nvmlMemory_t { total: 0, free: 0, used: 0 };
        call!(self.lib(), nvmlDeviceGetMemoryInfo(handle, &mut memory))?;
        Ok(Bytes::new(memory.total))
    }

    pub(super) fn compute_capability(&mut self, gpu: &GpuUuid) -> NvmlResult<(u32, u32)> {
        let handle = self.handle(gpu)?;
        let (mut major, mut minor) = (0, 0);
        call!(self.lib(), nvmlDeviceGetCudaComputeCapability(handle, &mut major, &mut minor))?;
        match (u32::try_from(major), u32::try_from(minor)) {
            (Ok(major), Ok(minor)) => Ok((major, minor)),
            _ => Err(senseless(
                "nvmlDeviceGetCudaComputeCapability",
                format!("the compute capability is {major}.{minor}"),
            )),
        }
    }

    pub(super) fn core_count(&mut self, gpu: &GpuUuid) -> NvmlResult<u32> {
        let handle = self.handle(gpu)?;
        let mut cores = 0;
        call!(self.lib(), nvmlDeviceGetNumGpuCores(handle, &mut cores))?;
        Ok(cores)
    }

    pub(super) fn compute_mode(&mut self, gpu: &GpuUuid) -> NvmlResult<ComputeMode> {
        let handle = self.handle(gpu)?;
        let mut mode = 0;
        call!(self.lib(), nvmlDeviceGetComputeMode(handle, &mut mode))?;
        COMPUTE_MODES.get(mode as usize).copied().ok_or_else(|| {
            senseless("nvmlDeviceGetComputeMode", format!("the compute mode is {mode}"))
        })
    }

    pub(super) fn set_compute_mode(&mut self, gpu: &GpuUuid, mode: ComputeMode) -> NvmlResult<()> {
        let handle = self.handle(gpu)?;
        call!(self.lib(), nvmlDeviceSetComputeMode(handle, number(mode)))
    }

    pub(super) fn mig_mode(&mut self, gpu: &GpuUuid) -> NvmlResult<MigMode> {
        let handle = self.handle(gpu)?;
        self.forget_mig_devices(gpu);
        let (mut current, mut pending) = (0, 0);
        call!(self.lib(), nvmlDeviceGetMigMode(handle, &mut current, &mut pending))?;
        Ok(MigMode { current: current != 0, pending: pending != 0 })
    }

    /// The call returns SUCCESS where the change only waits: its activation status says so.
    pub(super) fn set_mig_mode(&mut self, gpu: &GpuUuid, enable: bool) -> NvmlResult<Activation> {
        let handle = self.handle(gpu)?;
        let mut status = 0;
        let done = call!(self.lib(), nvmlDeviceSetMigMode(handle, enable.into(), &mut status));
        // The call may have reset the GPU even where it failed: no handle of it counts any more.
        self.forget(gpu);
        done?;
        Ok(match NvmlReturn(status) {
            NvmlReturn::SUCCESS => Activation::Active,
            reason => Activation::Pending(reason),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compute_modes_have_nvmls_numbers() {
        use nvml_wrapper_sys::bindings as sys;
        for (mode, numbered) in [
            (ComputeMode::Default, sys::nvmlComputeMode_enum_NVML_COMPUTEMODE_DEFAULT),
            (
                ComputeMode::ExclusiveThread,
                sys::nvmlComputeMode_enum_NVML_COMPUTEMODE_EXCLUSIVE_THREAD,
            ),
            (ComputeMode::Prohibited, sys::nvmlComputeMode_enum_NVML_COMPUTEMODE_PROHIBITED),
            (
                ComputeMode::ExclusiveProcess,
                sys::nvmlComputeMode_enum_NVML_COMPUTEMODE_EXCLUSIVE_PROCESS,
            ),
        ] {
            assert_eq!(number(mode), numbered);
            assert_eq!(COMPUTE_MODES[numbered as usize], mode);
        }
        assert_eq!(COMPUTE_MODES.len(), ComputeMode::ALL.len());
    }
}
