//! Property-string tables: what may stand inside `net0`, `scsi0`, `agent` and the like.

const DRIVE: &str = "\
aio? s enum=native|threads|io_uring
backup? b
bps? i
bps_max_length? i 1..
bps_rd? i
bps_rd_length? - alias=bps_rd_max_length
bps_rd_max_length? i 1..
bps_wr? i
bps_wr_length? - alias=bps_wr_max_length
bps_wr_max_length? i 1..
cache? s enum=none|writethrough|writeback|unsafe|directsync
detect_zeroes? b
discard? s enum=ignore|on
file s key fmt=pve-volume-id-or-qm-path
format? s enum=raw|qcow|qed|qcow2|vmdk|cloop
import-from? s fmt=pve-volume-id-or-absolute-path
iops? i
iops_max? i
iops_max_length? i 1..
iops_rd? i
iops_rd_length? - alias=iops_rd_max_length
iops_rd_max? i
iops_rd_max_length? i 1..
iops_wr? i
iops_wr_length? - alias=iops_wr_max_length
iops_wr_max? i
iops_wr_max_length? i 1..
mbps? n
mbps_max? n
mbps_rd? n
mbps_rd_max? n
mbps_wr? n
mbps_wr_max? n
media? s enum=cdrom|disk
replicate? b
rerror? s enum=ignore|report|stop
serial? s max=60 fmt=urlencoded
shared? b
size? s fmt=disk-size
snapshot? b
volume? - alias=file
werror? s enum=enospc|ignore|report|stop
";

/// Drive options that Proxmox 8 still knew.
const OLD_GEOMETRY: &str = "\
cyls? i until8
heads? i until8
secs? i until8
trans? s enum=none|lba|auto until8
";
const SSD: &str = "ssd? b\nwwn? s\n";
const IDE: &str = "model? s max=120 fmt=urlencoded\n";
const SCSI: &str = "iothread? b\nproduct? s\nqueues? i 2..\nro? b\nscsiblock? b\nvendor? s\n";
const VIRTIO: &str = "iothread? b\nro? b\n";

const NET: &str = "\
bridge? s fmt=pve-bridge-id
e1000? - alias=macaddr model
e1000-82540em? - alias=macaddr model
e1000-82544gc? - alias=macaddr model
e1000-82545em? - alias=macaddr model
e1000e? - alias=macaddr model
firewall? b
i82551? - alias=macaddr model
i82557b? - alias=macaddr model
i82559er? - alias=macaddr model
link_down? b
macaddr? s fmt=mac-addr
model s key enum=e1000|e1000-82540em|e1000-82544gc|e1000-82545em|e1000e|i82551|i82557b|i82559er|ne2k_isa|ne2k_pci|pcnet|rtl8139|virtio|vmxnet3
mtu? i 1..65520
ne2k_isa? - alias=macaddr model
ne2k_pci? - alias=macaddr model
pcnet? - alias=macaddr model
queues? i 0..64
rate? n 0..
rtl8139? - alias=macaddr model
tag? i 1..4094
trunks? s
virtio? - alias=macaddr model
vmxnet3? - alias=macaddr model
";

const AGENT: &str = "\
enabled b key
freeze-fs? b since9
freeze-fs-on-backup? b until8
freeze-fs-on-backup? - alias=freeze-fs since9
fstrim_cloned_disks? b
guest-fsfreeze? - alias=freeze-fs since9
type? s enum=virtio|isa
";

const IPCONFIG: &str = "\
ip? s fmt=pve-ipv4-config
gw? s fmt=ipv4 req=ip
ip6? s fmt=pve-ipv6-config
gw6? s fmt=ipv6 req=ip6
";

const CICUSTOM: &str = "\
meta? s fmt=pve-volume-id
network? s fmt=pve-volume-id
user? s fmt=pve-volume-id
vendor? s fmt=pve-volume-id
";

const EFIDISK: &str = "\
efitype? s enum=2m|4m
file s key fmt=pve-volume-id-or-qm-path
format? s enum=raw|qcow|qed|qcow2|vmdk|cloop
import-from? s fmt=pve-volume-id-or-absolute-path
ms-cert? s enum=2011|2023|2023w|2023k since9
pre-enrolled-keys? b
size? s fmt=disk-size
volume? - alias=file
";

const TPMSTATE: &str = "\
file s key fmt=pve-volume-id-or-qm-path
format? s enum=raw|qcow2|vmdk since9
import-from? s fmt=pve-volume-id-or-absolute-path
size? s fmt=disk-size
version? s enum=v1.2|v2.0
volume? - alias=file
";

const VGA: &str = "\
clipboard? s enum=vnc
memory? i 4..512
type? s key enum=cirrus|qxl|qxl2|qxl3|qxl4|none|serial0|serial1|serial2|serial3|std|virtio|virtio-gl|vmware
";

const MEMORY: &str = "current i 16.. key\n";
const UNUSED: &str = "file s key fmt=pve-volume-id\nvolume? - alias=file\n";
const AUDIO: &str = "device s enum=ich9-intel-hda|intel-hda|AC97\ndriver? s enum=spice|none\n";
const IVSHMEM: &str = "name? s re=ivshmem\nsize i 1..\n";
const NUMA: &str = "cpus s\nhostnodes? s\nmemory? n\npolicy? s enum=preferred|bind|interleave\n";
const SPICE: &str = "foldersharing? b\nvideostreaming? s enum=off|all|filter\n";
const USB: &str = "host? s key\nmapping? s fmt=pve-configid\nusb3? b\n";
const VIRTIOFS: &str = "cache? s enum=auto|always|metadata|never\ndirect-io? b\ndirid s key fmt=pve-configid\nexpose-acl? b\nexpose-xattr? b\n";
const MACHINE: &str =
    "aw-bits? n 32..64 since9\nenable-s3? b\nenable-s4? b\ntype? s key max=40\nviommu? s enum=intel|virtio\n";
const LOG_RATELIMIT: &str = "burst? i 0..\nenable b key\nrate? s\n";
const BWLIMIT: &str = "clone? n 0..\ndefault? n 0..\nmigration? n 0..\nmove? n 0..\nrestore? n 0..\n";

const PRUNE_BACKUPS: &str = "\
keep-all? b
keep-daily? i 0..
keep-hourly? i 0..
keep-last? i 0..
keep-monthly? i 0..
keep-weekly? i 0..
keep-yearly? i 0..
";

/// The tables of a nested format.
pub(super) fn table(name: &str) -> &'static [&'static str] {
    match name {
        "net" => &[NET],
        "ide" => &[DRIVE, OLD_GEOMETRY, SSD, IDE],
        "sata" => &[DRIVE, OLD_GEOMETRY, SSD],
        "scsi" => &[DRIVE, OLD_GEOMETRY, SSD, SCSI],
        "virtio" => &[DRIVE, OLD_GEOMETRY, VIRTIO],
        "efidisk" => &[EFIDISK],
        "tpmstate" => &[TPMSTATE],
        "agent" => &[AGENT],
        "ipconfig" => &[IPCONFIG],
        "cicustom" => &[CICUSTOM],
        "vga" => &[VGA],
        "memory" => &[MEMORY],
        "unused" => &[UNUSED],
        "audio" => &[AUDIO],
        "ivshmem" => &[IVSHMEM],
        "numa" => &[NUMA],
        "spice" => &[SPICE],
        "usb" => &[USB],
        "virtiofs" => &[VIRTIOFS],
        "machine" => &[MACHINE],
        "log_ratelimit" => &[LOG_RATELIMIT],
        "bwlimit" => &[BWLIMIT],
        "prune-backups" => &[PRUNE_BACKUPS],
        _ => &[],
    }
}
