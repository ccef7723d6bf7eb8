//go:build devtee

package softpsp

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/google/go-sev-guest/abi"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/lab/port"
)

// ErrEnded says that this launch is over: a guest that boots again is a new one.
var ErrEnded = errors.New("this launch has ended")

// Machine is one launch of a guest. Its REPORT_ID is fresh and stays the same in
// all its reports; a guest that boots again is another Machine.
type Machine struct {
	psp      *PSP
	reportID [32]byte
	measure  func() ([48]byte, error)

	mu    sync.Mutex
	taken bool
	value [48]byte
	ended bool
}

// Launch begins a launch. The callback gives the launch digest of what the
// hypervisor was really given; it is asked once, at the first report, and the
// answer holds for the life of the machine, as a measurement does.
func (p *PSP) Launch(measure func() ([48]byte, error)) (*Machine, error) {
	m := &Machine{psp: p, measure: measure}
	if _, err := rand.Read(m.reportID[:]); err != nil {
		return nil, fmt.Errorf("launching simulated guest: %w", err)
	}
	return m, nil
}

// ReportID is that of all the machine's reports.
func (m *Machine) ReportID() [32]byte { return m.reportID }

// End closes the launch: no more reports are signed for it.
func (m *Machine) End() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
}

func (m *Machine) measurement() ([48]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return [48]byte{}, ErrEnded
	}
	if !m.taken {
		value, err := m.measure()
		if err != nil {
			return [48]byte{}, fmt.Errorf("measuring launch: %w", err)
		}
		m.value, m.taken = value, true
	}
	return m.value, nil
}

// Report signs a report over the guest's report data.
func (m *Machine) Report(reportData [64]byte) ([]byte, error) {
	value, err := m.measurement()
	if err != nil {
		return nil, err
	}
	return m.psp.Sign(Report{Measurement: value, ReportData: reportData, ReportID: m.reportID})
}

// Report is what varies between the reports of one machine.
type Report struct {
	Measurement [48]byte
	ReportData  [64]byte
	ReportID    [32]byte
	// Alter changes the bytes before they are signed: the way to the reports of
	// debug guests and other misfits that a test needs.
	Alter func(report []byte)
}

// Sign makes a report of the machine, with Nova's guest policy.
func (p *PSP) Sign(r Report) ([]byte, error) {
	le := binary.LittleEndian
	b := make([]byte, abi.ReportSize)
	le.PutUint32(b[0x000:], p.version)
	le.PutUint64(b[0x008:], attest.NovaGuestPolicy)
	le.PutUint32(b[0x034:], abi.SignEcdsaP384Sha384)
	for _, at := range []int{0x038, 0x180, 0x1e0, 0x1f0} { // current, reported, committed, launch
		if p.line == attest.Turin {
			b[at], b[at+1], b[at+2], b[at+3], b[at+7] = p.tcb.FMC, p.tcb.Bootloader, p.tcb.TEE, p.tcb.SNP, p.tcb.Microcode
			continue
		}
		b[at], b[at+1], b[at+6], b[at+7] = p.tcb.Bootloader, p.tcb.TEE, p.tcb.SNP, p.tcb.Microcode
	}
	le.PutUint64(b[0x040:], 0x25) // SMT, ECC, memory checked for aliases
	if p.provider != "" {
		le.PutUint32(b[0x048:], 1<<2) // signed with the VLEK
	}
	copy(b[0x050:], r.ReportData[:])
	copy(b[0x090:], r.Measurement[:])
	copy(b[0x140:], r.ReportID[:])
	copy(b[0x160:], bytes.Repeat([]byte{0xff}, 32)) // no migration agent
	if p.version >= 3 {
		copy(b[0x188:], map[string][]byte{attest.Milan: {0x19, 0x01, 0x01}, attest.Genoa: {0x19, 0x11, 0x01}, attest.Turin: {0x1a, 0x02, 0x01}}[p.line])
	}
	copy(b[0x1a0:], p.chipID[:])
	for _, at := range []int{0x1e8, 0x1ec} { // current and committed firmware 1.55.49
		b[at], b[at+1], b[at+2] = 49, 55, 1
	}
	if p.version >= 5 { // mitigated at launch and now, as seen on a Siena machine
		le.PutUint64(b[0x1f8:], 0xb)
		le.PutUint64(b[0x200:], 0xb)
	}
	if r.Alter != nil {
		r.Alter(b)
	}
	digest := sha512.Sum384(abi.SignedComponent(b))
	x, y, err := ecdsa.Sign(rand.Reader, p.key, digest[:])
	if err != nil {
		return nil, fmt.Errorf("signing simulated report: %w", err)
	}
	if err := abi.SetSignature(x, y, b); err != nil {
		return nil, fmt.Errorf("signing simulated report: %w", err)
	}
	return b, nil
}

// Serve answers the guest's requests until the other side closes.
func (m *Machine) Serve(conn io.ReadWriter) error {
	return port.Serve(conn, func(data [64]byte) (port.Answer, error) {
		report, err := m.Report(data)
		return port.Answer{Report: report, Certs: m.psp.Certificates()}, err
	})
}

// Serve is Launch and Machine.Serve for a connection that lives as long as the
// guest: one connection, one launch.
func (p *PSP) Serve(conn io.ReadWriter, measure func() ([48]byte, error)) error {
	m, err := p.Launch(measure)
	if err != nil {
		return err
	}
	defer m.End()
	return m.Serve(conn)
}
