package attest

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Limits and constants of a CC event log: the TCG crypto-agile log (TCG PC Client
// Platform Firmware Profile, event logging) in the area that the ACPI table CCEL
// names. In a TDX guest the index of an event is that of a measurement register:
// 0 for MRTD, 1 to 4 for RTMR0 to RTMR3 (UEFI 2.10, CC measurement on TDX).
const (
	maxEventLogBytes = 1 << 20
	maxEvents        = 8192
	maxLogAlgorithms = 8
	algorithmSHA384  = 0x000c
	eventNoAction    = 0x00000003
	eventTag         = 0x00000006
	firstRegister    = 1
	registers        = 4
)

var specID = []byte("Spec ID Event03\x00")

// logEvent is one entry of the log. Its type and data are what the log's owner
// says; only the digest is proved, by the replay.
type logEvent struct {
	register int // 0 to 3: RTMR0 to RTMR3
	kind     uint32
	digest   [48]byte
	data     []byte
}

// EventLog is a log without the padding behind its last event: all that a verdict
// can rest on. What cannot be read is left as it is.
func EventLog(log []byte) []byte {
	if _, used, err := readEventLog(log); err == nil {
		return log[:used]
	}
	return log
}

// parseEventLog reads the events that extend a register.
func parseEventLog(log []byte) ([]logEvent, error) {
	events, _, err := readEventLog(log)
	return events, err
}

// readEventLog is parseEventLog and says, too, how long the log is without padding.
func readEventLog(log []byte) (events []logEvent, used int, err error) {
	if len(log) > maxEventLogBytes {
		return nil, 0, fmt.Errorf("reading event log: more than %d bytes", maxEventLogBytes)
	}
	r := logReader{rest: log}
	sizes, err := r.header()
	if err != nil {
		return nil, 0, err
	}
	for !r.atEnd() {
		if len(events) == maxEvents {
			return nil, 0, fmt.Errorf("reading event log: more than %d events", maxEvents)
		}
		e, index, err := r.event(sizes)
		if err != nil {
			return nil, 0, err
		}
		if e.kind == eventNoAction {
			continue
		}
		if index < firstRegister || index >= firstRegister+registers {
			return nil, 0, errors.New("reading event log: an event is of none of the four registers")
		}
		e.register = int(index - firstRegister)
		events = append(events, e)
	}
	return events, len(log) - len(r.rest), nil
}

// replay extends empty registers as the events say.
func replay(events []logEvent) (out [registers][48]byte) {
	for _, e := range events {
		out[e.register] = sha512.Sum384(append(bytes.Clone(out[e.register][:]), e.digest[:]...))
	}
	return out
}

type logReader struct {
	rest  []byte
	short bool
}

func (r *logReader) take(n uint64) []byte {
	if n > uint64(len(r.rest)) {
		r.short = true
		return nil
	}
	out := r.rest[:n]
	r.rest = r.rest[n:]
	return out
}

func (r *logReader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *logReader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

var errLogShort = errors.New("reading event log: it ends within an event")

// header reads the first event, in the older form, which names the digests that
// all others carry.
func (r *logReader) header() (map[uint16]uint64, error) {
	bad := errors.New("reading event log: it does not begin as a crypto-agile log does")
	r.u32() // the register, which means nothing for an event that extends none
	kind := r.u32()
	r.take(20)
	id := logReader{rest: r.take(uint64(r.u32()))}
	if r.short || kind != eventNoAction || !bytes.Equal(id.take(uint64(len(specID))), specID) {
		return nil, bad
	}
	id.take(8) // platform class, version, size of integers
	n := id.u32()
	if id.short || n == 0 || n > maxLogAlgorithms {
		return nil, bad
	}
	sizes := make(map[uint16]uint64)
	for range n {
		algorithm, size := id.u16(), id.u16()
		if _, twice := sizes[algorithm]; twice || size == 0 || size > 64 {
			return nil, bad
		}
		sizes[algorithm] = uint64(size)
	}
	vendor := id.take(1)
	if id.short || sizes[algorithmSHA384] != 48 {
		return nil, errors.New("reading event log: it has no SHA-384 digests")
	}
	id.take(uint64(vendor[0]))
	if id.short || len(id.rest) != 0 {
		return nil, bad
	}
	return sizes, nil
}

// atEnd is true where only padding follows: the area is larger than the log, and
// firmware fills it with ones or leaves zeros.
func (r *logReader) atEnd() bool {
	if len(r.rest) == 0 {
		return true
	}
	fill := r.rest[0]
	if fill != 0 && fill != 0xff {
		return false
	}
	return !slices.ContainsFunc(r.rest, func(b byte) bool { return b != fill })
}

func (r *logReader) event(sizes map[uint16]uint64) (logEvent, uint32, error) {
	var e logEvent
	index := r.u32()
	e.kind = r.u32()
	n := r.u32()
	if !r.short && uint64(n) != uint64(len(sizes)) {
		return e, 0, errors.New("reading event log: an event has not one digest of each kind")
	}
	seen := make(map[uint16]bool, len(sizes))
	for range min(n, maxLogAlgorithms) {
		algorithm := r.u16()
		size, known := sizes[algorithm]
		if !r.short && (!known || seen[algorithm]) {
			return e, 0, errors.New("reading event log: an event has not one digest of each kind")
		}
		seen[algorithm] = true
		digest := r.take(size)
		if algorithm == algorithmSHA384 && digest != nil {
			e.digest = [48]byte(digest)
		}
	}
	e.data = r.take(uint64(r.u32()))
	if r.short {
		return e, 0, errLogShort
	}
	return e, index, nil
}
