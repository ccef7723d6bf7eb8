// Package image owns guest images: the kernel, initrd and firmware file that a
// workspace's launch digest is computed from.
//
//	draft ──register──▶ registered ──approve──▶ approved
//	  │                      │                      │
//	  └──────────────────────┴──────withdraw────────┴──▶ withdrawn
//
// An operator uploads the three files and registers the image; a custodian
// approves it. Whoever made or registered an image never approves it: the
// service refuses and a CHECK in the database refuses again. Files are
// immutable and named by their SHA-256; a registered image cannot change. An
// upload is received into a temporary file, which no transaction waits for, and
// stored once it is whole.
//
// What others sign about the digests of files (CoRIM documents, under configured
// keys) is kept append-only, each statement once, and shown beside an image's files
// as long as it is good. It supports an approval, whose audit entry names it, and
// makes none.
//
// The package trusts its caller to have authorised the role; it decides itself
// that two different people are at work.
package image
