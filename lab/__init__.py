"""A lab of real VMs: builds a small guest, starts it on libvirt, works in it, and cleans up behind itself."""

from lab.disks import DiskSpec
from lab.errors import GuestCommandError, ImagesDifferError, LabError
from lab.guest.image import GuestImage, guest_image
from lab.images import compare_images, virtual_size
from lab.lab import Lab
from lab.vm import LabVm

__all__ = [
    "DiskSpec",
    "GuestCommandError",
    "GuestImage",
    "ImagesDifferError",
    "Lab",
    "LabError",
    "LabVm",
    "compare_images",
    "guest_image",
    "virtual_size",
]
