//! Which kernel drivers VFIO gets along with in an IOMMU group.
//! The one place that knows their names.

/// Whether `driver` is VFIO's own driver, or one made of it for one kind of device.
///
/// ```
/// use underpin_nvme::is_vfio_driver;
///
/// assert!(is_vfio_driver("vfio-pci") && is_vfio_driver("mlx5_vfio_pci"));
/// assert!(!is_vfio_driver("nvme") && !is_vfio_driver("novfio-pci"));
/// ```
pub fn is_vfio_driver(driver: &str) -> bool {
    driver == "vfio-pci" || driver.ends_with("-vfio-pci") || driver.ends_with("_vfio_pci")
}

/// Whether a function that has `driver` leaves the others of its IOMMU group to VFIO: its own
/// drivers do, and those that the kernel marks as doing no DMA of their own (`driver_managed_dma`
/// in drivers/pci).
///
/// ```
/// use underpin_nvme::shares_group_with_vfio;
///
/// assert!(shares_group_with_vfio("vfio-pci") && shares_group_with_vfio("pcieport"));
/// assert!(!shares_group_with_vfio("e1000e"));
/// ```
pub fn shares_group_with_vfio(driver: &str) -> bool {
    is_vfio_driver(driver) || matches!(driver, "pci-stub" | "pcieport")
}
