//go:build devtee

package softtd

import (
	"crypto/sha512"
	"encoding/binary"
	"slices"
	"unicode/utf16"
)

// Boot is what a trust domain was launched from, by the host's own knowledge.
type Boot struct {
	// MRTD is the launch measurement of the firmware.
	MRTD [48]byte
	// Kernel is the Authenticode digest (SHA-384) of the image that the firmware loads.
	Kernel [48]byte
	// Line is the command line as QEMU was given it.
	Line string
	// Initrd is the SHA-384 of the file; there must be one.
	Initrd [48]byte
}

// Types of events (TCG PC Client Platform Firmware Profile, event types).
const (
	evNoAction       = 0x00000003
	evSeparator      = 0x00000004
	evEventTag       = 0x00000006
	evConfigFlags    = 0x0000000a
	evVariableConfig = 0x80000001
	evVariableBoot   = 0x80000002
	evApplication    = 0x80000003
	evAction         = 0x80000007
	evFirmwareBlob2  = 0x8000000a
	evHandoffTables2 = 0x8000000b

	sha384 = 0x000c

	loadOptionsTag = 0x8f3b22ed
	initrdTag      = 0x8f3b22ec
)

// eventLog writes a log of the form that OVMF and the kernel's EFI stub leave in the area of the ACPI table CCEL, without
// the padding behind it, and the registers that it gives.
type eventLog struct {
	bytes []byte
	rtmrs [4][48]byte
}

// EventLog is the log of this boot with the four registers that it gives: firmware and its configuration in the first, the
// kernel in the second, line and initrd in the third. Nothing measures into the last. Of the orders that versions of OVMF have
// it is that of edk2-stable202411 to 202505.
func (b Boot) EventLog() (log []byte, rtmrs [4][48]byte) {
	var l eventLog
	l.header()
	l.measured(0, evHandoffTables2, "\x09TdxTable\x00", sum("simulated hand-off block"))
	l.measured(0, evFirmwareBlob2, "simulated firmware volume", sum("simulated firmware volume"))
	for _, v := range []string{"SecureBoot", "PK", "KEK"} {
		l.said(0, evVariableConfig, variable(v))
	}
	l.said(0, evSeparator, "\x00\x00\x00\x00")
	for _, table := range []string{"loader", "RSDP", "tables"} {
		l.measured(0, evConfigFlags, "ACPI DATA", sum("simulated ACPI "+table))
	}
	l.measured(1, evApplication, "simulated device path of the kernel", b.Kernel)
	for _, v := range []string{"BootOrder", "Boot0000"} {
		l.said(0, evVariableBoot, variable(v))
	}
	l.said(1, evAction, "Calling EFI Application from Boot Option")
	l.said(1, evSeparator, "\x00\x00\x00\x00")
	// OVMF appends to the line when there is an initrd; the stub measures what it was handed.
	l.measured(2, evEventTag, tagged(loadOptionsTag, "LOADED_IMAGE::LoadOptions\x00"), sum(wide(b.Line+" initrd=initrd\x00")))
	l.measured(2, evEventTag, tagged(initrdTag, "Linux initrd\x00"), b.Initrd)
	l.said(1, evAction, "Exit Boot Services Invocation")
	l.said(1, evAction, "Exit Boot Services Returned with Success")
	return l.bytes, l.rtmrs
}

// header is the first event, which extends nothing and names the one kind of digest.
func (l *eventLog) header() {
	le := binary.LittleEndian
	id := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2)
	id = le.AppendUint16(le.AppendUint16(le.AppendUint32(id, 1), sha384), sha512.Size384)
	id = append(id, 0)
	l.bytes = le.AppendUint32(le.AppendUint32(l.bytes, 1), evNoAction)
	l.bytes = le.AppendUint32(append(l.bytes, make([]byte, 20)...), uint32(len(id)))
	l.bytes = append(l.bytes, id...)
}

// said extends a register by what the event says.
func (l *eventLog) said(register int, kind uint32, data string) {
	l.measured(register, kind, data, sum(data))
}

// measured extends a register by a digest of something else.
func (l *eventLog) measured(register int, kind uint32, data string, digest [48]byte) {
	le := binary.LittleEndian
	b := le.AppendUint32(l.bytes, uint32(register+1)) // index 0 is MRTD's
	b = le.AppendUint32(le.AppendUint32(b, kind), 1)
	b = append(le.AppendUint16(b, sha384), digest[:]...)
	l.bytes = append(le.AppendUint32(b, uint32(len(data))), data...)
	l.rtmrs[register] = sha512.Sum384(slices.Concat(l.rtmrs[register][:], digest[:]))
}

func sum(data string) [48]byte { return sha512.Sum384([]byte(data)) }

// variable is UEFI_VARIABLE_DATA of a variable that is empty.
func variable(name string) string {
	global := []byte{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}
	b := binary.LittleEndian.AppendUint64(global, uint64(len(name)))
	return string(binary.LittleEndian.AppendUint64(b, 0)) + wide(name)
}

func tagged(id uint32, data string) string {
	b := binary.LittleEndian.AppendUint32(nil, id)
	return string(binary.LittleEndian.AppendUint32(b, uint32(len(data)))) + data
}

// wide is UTF-16, as firmware writes text.
func wide(s string) string {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return string(b)
}
