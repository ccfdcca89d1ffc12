"""`python -m lab`: the lab by hand."""

import argparse
import sys

import libvirt

from lab.errors import LabError
from lab.guest.image import guest_image
from lab.host import connect, running_libvirtd
from lab.lab import Lab
from lab.leftovers import clean


def main(arguments: list[str]) -> int:
    """Parse and do one command; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lab", description="Small real VMs for tests and demos.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build the guest, unless the cache holds it")
    up = commands.add_parser("up", help="start a VM that stays until `down`")
    up.add_argument("name")
    runner = commands.add_parser("run", help="run a command in a VM that `up` started")
    runner.add_argument("name")
    runner.add_argument("argv", nargs="+", metavar="command")
    down = commands.add_parser("down", help="stop a VM that `up` started and remove it")
    down.add_argument("name")
    cleaner = commands.add_parser("clean", help="remove what labs that were killed left behind")
    cleaner.add_argument("--all", action="store_true", help="the VMs of `up` too")
    chosen = parser.parse_args(arguments)
    try:
        _do(chosen)
    except (LabError, libvirt.libvirtError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


def _do(chosen: argparse.Namespace) -> None:
    match chosen.command:
        case "build":
            print(guest_image().initramfs.parent)
        case "up":
            with Lab(keep=chosen.name) as lab:
                vm = lab.create_vm("vm")
                vm.wait_agent()
                print(vm.name)
        case "run":
            with Lab(keep=chosen.name) as lab:
                print(lab.find_vm("vm").run(chosen.argv), end="")
        case "down":
            Lab(keep=chosen.name).remove()
        case "clean":
            running_libvirtd()
            for line in clean(connect(), kept_too=chosen.all):
                print(f"removed {line}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
