// Package luks makes, authenticates and opens the one kind of LUKS2 volume that a
// siestad guest uses. The disk belongs to the cloud, which may show the guest any
// bytes it likes at any time; everything here is arranged around that.
//
// # Layout of the disk
//
//	0                    LUKS2 metadata, first copy       16 KiB
//	16 KiB               LUKS2 metadata, second copy      16 KiB
//	32 KiB               keyslot area                    512 KiB
//	544 KiB              zeros
//	1 MiB - 4 KiB        the seal: label, MAC, zeros       4 KiB
//	1 MiB                data, aes-xts-plain64, 4096-byte sectors
//
// The header is the first 1 MiB - 4 KiB, all of it: its hash is SHA-256 over these
// bytes and its MAC is HMAC-SHA256 over the label, and then these bytes. The MAC key comes with
// the grant, so nobody who only holds the disk can make a header that passes; the
// expected hash comes with the grant too, so an older header of the same volume does
// not pass either.
//
// # What holds
//
//   - A header is never trusted because it was just written: it is made in memory,
//     judged there, written out, and opened from memory.
//   - A header from the disk is read once; the copy that was judged is the copy that
//     is opened.
//   - The judged header has exactly one segment and one keyslot, with the ciphers and
//     sizes written above, no token, no requirement, no flag. Anything else is refused
//     although its MAC is right.
//   - Formatting writes the header last, after the file system is on the disk. A disk
//     with a header has a file system; a power cut before that leaves a disk that is
//     formatted again under the next grant to do so.
//   - Keys go to cryptsetup through a pipe: not in arguments, environment or files.
//
// It trusts the kernel, cryptsetup and mke2fs of the measured initrd.
package luks
