//! What nvidia-smi asks for beside: an undocumented table, events, and functions that answer
//! NOT_SUPPORTED, which it shows as N/A.

use std::ffi::{c_uint, c_ulonglong, c_void};

use gpushare_core::port::NvmlReturn;

use crate::abi::{Handle, In, Out, nvml};
use crate::session::call_closed;

/// The one table that nvidia-smi 535 to 555 ask for.
const TABLE_ID: [u8; 16] = [
    0xc4, 0xfe, 0x3e, 0x6c, 0xc9, 0x8f, 0x6c, 0x4e, 0xa3, 0x27, 0xee, 0x69, 0x6e, 0x12, 0xf7, 0xc4,
];
/// How many functions it has at least: nvidia-smi calls the ones at 35 and 90.
const TABLE_FUNCTIONS: usize = 95;

/// A table of functions: its size in bytes, and the functions.
#[repr(C)]
struct Table {
    size: usize,
    functions: [extern "C" fn() -> u32; TABLE_FUNCTIONS],
}

extern "C" fn not_supported() -> u32 {
    NvmlReturn::NOT_SUPPORTED.0
}

static TABLE: Table =
    Table { size: size_of::<Table>(), functions: [not_supported; TABLE_FUNCTIONS] };

// SAFETY: no other function of that name is in this library.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlInternalGetExportTable(
    table: Out<*const c_void>,
    id: In<[u8; 16]>,
) -> u32 {
    call_closed("nvmlInternalGetExportTable", || {
        if id.get()? != TABLE_ID {
            return Err(NvmlReturn::NOT_SUPPORTED.into());
        }
        table.set((&raw const TABLE).cast())
    })
}

nvml! {
    fn nvmlEventSetCreate(session, set: Out<Handle>) {
        let _ = session;
        set.set(Handle::from_number(8))
    }

    fn nvmlEventSetFree(session, _set: Handle) {
        let _ = session;
        Ok(())
    }

    fn nvmlDeviceRegisterEvents(session, device: Handle, _types: c_ulonglong, _set: Handle) {
        session.device(device)?;
        Err(NvmlReturn::NOT_SUPPORTED.into())
    }

    fn nvmlEventSetWait_v2(session, _set: Handle, _data: Handle, _timeout: c_uint) {
        let _ = session;
        Err(NvmlReturn::TIMEOUT.into())
    }

    fn nvmlUnitGetCount(session, count: Out<c_uint>) {
        let _ = session;
        count.set(0)
    }

    fn nvmlGetExcludedDeviceCount(session, count: Out<c_uint>) {
        let _ = session;
        count.set(0)
    }
}

/// Functions that answer NOT_SUPPORTED whatever they are asked. That some are there tells a program which
/// driver it has: by `nvmlDeviceGetRunningProcessDetailList` nvitop knows how long a process's entry is. Their arguments are not looked
/// at, which the C ABI allows: the caller clears them away.
macro_rules! not_supported {
    ($($name:ident)*) => {$(
        // SAFETY: no other function of that name is in this library.
        #[unsafe(no_mangle)]
        extern "C" fn $name() -> u32 {
            call_closed(stringify!($name), || Err(NvmlReturn::NOT_SUPPORTED.into()))
        }
    )*};
}

not_supported! {
    nvmlDeviceClearAccountingPids
    nvmlDeviceClearEccErrorCounts
    nvmlDeviceClearFieldValues
    nvmlDeviceDiscoverGpus
    nvmlDeviceGetAccountingBufferSize
    nvmlDeviceGetAccountingMode
    nvmlDeviceGetAccountingPids
    nvmlDeviceGetAccountingStats
    nvmlDeviceGetActiveVgpus
    nvmlDeviceGetApplicationsClock
    nvmlDeviceGetAutoBoostedClocksEnabled
    nvmlDeviceGetBoardId
    nvmlDeviceGetBoardPartNumber
    nvmlDeviceGetBridgeChipInfo
    nvmlDeviceGetC2cModeInfoV
    nvmlDeviceGetCapabilities
    nvmlDeviceGetClock
    nvmlDeviceGetClockInfo
    nvmlDeviceGetConfComputeMemSizeInfo
    nvmlDeviceGetConfComputeProtectedMemoryUsage
    nvmlDeviceGetCpuAffinity
    nvmlDeviceGetCreatableVgpus
    nvmlDeviceGetCurrPcieLinkGeneration
    nvmlDeviceGetCurrPcieLinkWidth
    nvmlDeviceGetCurrentClocksThrottleReasons
    nvmlDeviceGetDecoderUtilization
    nvmlDeviceGetDefaultApplicationsClock
    nvmlDeviceGetDisplayActive
    nvmlDeviceGetDisplayMode
    nvmlDeviceGetDriverModel
    nvmlDeviceGetDriverModel_v2
    nvmlDeviceGetEccMode
    nvmlDeviceGetEncoderSessions
    nvmlDeviceGetEncoderStats
    nvmlDeviceGetEncoderUtilization
    nvmlDeviceGetEnforcedPowerLimit
    nvmlDeviceGetFBCSessions
    nvmlDeviceGetFBCStats
    nvmlDeviceGetFanSpeed
    nvmlDeviceGetFieldValues
    nvmlDeviceGetGpcClkVfOffset
    nvmlDeviceGetGpuFabricInfo
    nvmlDeviceGetGpuFabricInfoV
    nvmlDeviceGetGpuMaxPcieLinkGeneration
    nvmlDeviceGetGpuOperationMode
    nvmlDeviceGetGridLicensableFeatures_v4
    nvmlDeviceGetGspFirmwareMode
    nvmlDeviceGetGspFirmwareVersion
    nvmlDeviceGetHostVgpuMode
    nvmlDeviceGetInforomImageVersion
    nvmlDeviceGetInforomVersion
    nvmlDeviceGetJpgUtilization
    nvmlDeviceGetLastBBXFlushTime
    nvmlDeviceGetMaxClockInfo
    nvmlDeviceGetMaxPcieLinkGeneration
    nvmlDeviceGetMaxPcieLinkWidth
    nvmlDeviceGetMemoryAffinity
    nvmlDeviceGetMemoryErrorCounter
    nvmlDeviceGetModuleId
    nvmlDeviceGetMultiGpuBoard
    nvmlDeviceGetNumaNodeId
    nvmlDeviceGetNvLinkCapability
    nvmlDeviceGetNvLinkRemotePciInfo_v2
    nvmlDeviceGetOfaUtilization
    nvmlDeviceGetP2PStatus
    nvmlDeviceGetPcieReplayCounter
    nvmlDeviceGetPcieThroughput
    nvmlDeviceGetPerformanceState
    nvmlDeviceGetPowerManagementDefaultLimit
    nvmlDeviceGetPowerManagementLimit
    nvmlDeviceGetPowerManagementLimitConstraints
    nvmlDeviceGetPowerManagementMode
    nvmlDeviceGetPowerState
    nvmlDeviceGetPowerUsage
    nvmlDeviceGetProcessUtilization
    nvmlDeviceGetRemappedRows
    nvmlDeviceGetRetiredPages
    nvmlDeviceGetRetiredPagesPendingStatus
    nvmlDeviceGetRetiredPages_v2
    nvmlDeviceGetRowRemapperHistogram
    nvmlDeviceGetRunningProcessDetailList
    nvmlDeviceGetSamples
    nvmlDeviceGetSerial
    nvmlDeviceGetSramEccErrorStatus
    nvmlDeviceGetSupportedClocksThrottleReasons
    nvmlDeviceGetSupportedEventTypes
    nvmlDeviceGetSupportedGraphicsClocks
    nvmlDeviceGetSupportedMemoryClocks
    nvmlDeviceGetSupportedVgpus
    nvmlDeviceGetTemperature
    nvmlDeviceGetTemperatureThreshold
    nvmlDeviceGetTopologyCommonAncestor
    nvmlDeviceGetTopologyNearestGpus
    nvmlDeviceGetTotalEccErrors
    nvmlDeviceGetUtilizationRates
    nvmlDeviceGetVbiosVersion
    nvmlDeviceGetVgpuCapabilities
    nvmlDeviceGetVgpuHeterogeneousMode
    nvmlDeviceGetVgpuInstancesUtilizationInfo
    nvmlDeviceGetVgpuMetadata
    nvmlDeviceGetVgpuProcessUtilization
    nvmlDeviceGetVgpuProcessesUtilizationInfo
    nvmlDeviceGetVgpuSchedulerCapabilities
    nvmlDeviceGetVgpuSchedulerLog
    nvmlDeviceGetVgpuSchedulerState
    nvmlDeviceGetVgpuTypeCreatablePlacements
    nvmlDeviceGetVgpuTypeSupportedPlacements
    nvmlDeviceGetVgpuUtilization
    nvmlDeviceGetViolationStatus
    nvmlDeviceGetVirtualizationMode
    nvmlDeviceModifyDrainState
    nvmlDeviceQueryDrainState
    nvmlDeviceRemoveGpu_v2
    nvmlDeviceResetApplicationsClocks
    nvmlDeviceResetGpuLockedClocks
    nvmlDeviceResetMemoryLockedClocks
    nvmlDeviceResetNvLinkErrorCounters
    nvmlDeviceSetAPIRestriction
    nvmlDeviceSetAccountingMode
    nvmlDeviceSetApplicationsClocks
    nvmlDeviceSetAutoBoostedClocksEnabled
    nvmlDeviceSetConfComputeUnprotectedMemSize
    nvmlDeviceSetDefaultAutoBoostedClocksEnabled
    nvmlDeviceSetDriverModel
    nvmlDeviceSetEccMode
    nvmlDeviceSetGpcClkVfOffset
    nvmlDeviceSetGpuLockedClocks
    nvmlDeviceSetGpuOperationMode
    nvmlDeviceSetMemoryLockedClocks
    nvmlDeviceSetNvLinkDeviceLowPowerThreshold
    nvmlDeviceSetPowerManagementLimit_v2
    nvmlDeviceSetTemperatureThreshold
    nvmlDeviceSetVgpuHeterogeneousMode
    nvmlDeviceSetVgpuSchedulerState
    nvmlDeviceSetVirtualizationMode
    nvmlDeviceValidateInforom
    nvmlGetExcludedDeviceInfoByIndex
    nvmlGetVgpuDriverCapabilities
    nvmlGpmMetricsGet
    nvmlGpmQueryIfStreamingEnabled
    nvmlGpmSampleAlloc
    nvmlGpmSampleFree
    nvmlGpmSampleGet
    nvmlGpmSetStreamingEnabled
    nvmlSystemGetConfComputeCapabilities
    nvmlSystemGetConfComputeGpusReadyState
    nvmlSystemGetConfComputeKeyRotationThresholdInfo
    nvmlSystemGetConfComputeSettings
    nvmlSystemGetConfComputeState
    nvmlSystemGetHicVersion
    nvmlSystemGetNvlinkBwMode
    nvmlSystemGetTopologyGpuSet
    nvmlSystemSetConfComputeGpusReadyState
    nvmlSystemSetConfComputeKeyRotationThresholdInfo
    nvmlSystemSetNvlinkBwMode
    nvmlVgpuInstanceClearAccountingPids
    nvmlVgpuInstanceGetAccountingMode
    nvmlVgpuInstanceGetAccountingPids
    nvmlVgpuInstanceGetAccountingStats
    nvmlVgpuInstanceGetEccMode
    nvmlVgpuInstanceGetEncoderSessions
    nvmlVgpuInstanceGetEncoderStats
    nvmlVgpuInstanceGetFBCSessions
    nvmlVgpuInstanceGetFBCStats
    nvmlVgpuInstanceGetFbUsage
    nvmlVgpuInstanceGetFrameRateLimit
    nvmlVgpuInstanceGetGpuInstanceId
    nvmlVgpuInstanceGetGpuPciId
    nvmlVgpuInstanceGetLicenseInfo_v2
    nvmlVgpuInstanceGetMdevUUID
    nvmlVgpuInstanceGetPlacementId
    nvmlVgpuInstanceGetType
    nvmlVgpuInstanceGetUUID
    nvmlVgpuInstanceGetVmDriverVersion
    nvmlVgpuInstanceGetVmID
    nvmlVgpuTypeGetCapabilities
    nvmlVgpuTypeGetClass
    nvmlVgpuTypeGetDeviceID
    nvmlVgpuTypeGetFrameRateLimit
    nvmlVgpuTypeGetFramebufferSize
    nvmlVgpuTypeGetGpuInstanceProfileId
    nvmlVgpuTypeGetLicense
    nvmlVgpuTypeGetMaxInstances
    nvmlVgpuTypeGetMaxInstancesPerVm
    nvmlVgpuTypeGetName
    nvmlVgpuTypeGetNumDisplayHeads
    nvmlVgpuTypeGetResolution
    nvmlUnitGetDevices
    nvmlUnitGetFanSpeedInfo
    nvmlUnitGetHandleByIndex
    nvmlUnitGetLedState
    nvmlUnitGetPsuInfo
    nvmlUnitGetTemperature
    nvmlUnitGetUnitInfo
    nvmlUnitSetLedState
}
