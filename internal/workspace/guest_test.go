package workspace

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/lab/cloudsim"
)

// verifier judges the test's evidence: report data, launch id, measurement. What real evidence must be is attest's business.
type verifier struct{}

func (verifier) Verify(ev attest.Evidence, _ attest.Collateral, pol attest.Policy, _ time.Time) (*attest.Result, error) {
	refuse := func(code string) (*attest.Result, error) {
		return nil, &attest.Refusal{Code: code, Check: code, Checks: []attest.Check{{Name: code, Code: code, Status: attest.Failed}}}
	}
	if ev.TEE == attest.TDX {
		return judgeDomain(ev, pol)
	}
	if len(ev.Report) != 64+32+48 {
		return refuse(attest.CodeFormat)
	}
	res := &attest.Result{
		TEE: attest.SEVSNP, Product: attest.Milan, ReportData: [64]byte(ev.Report), ReportID: [32]byte(ev.Report[64:]),
		Measurement: [48]byte(ev.Report[96:]), ChipID: [64]byte(pol.Chips[0]), Simulated: true,
	}
	switch {
	case res.ReportData != pol.ReportData:
		return refuse(attest.CodeReportData)
	case !slices.ContainsFunc(pol.Measurements, func(m []byte) bool { return bytes.Equal(m, res.Measurement[:]) }):
		return refuse(attest.CodeMeasurement)
	}
	return res, nil
}

const vcpuSig = 0x00a00f11

// machine is a running guest: it measures what it was really given, attests and reports its stages.
type machine struct {
	rig      *rig
	spec     cloudsim.BootSpec
	cancel   context.CancelFunc
	ended    chan struct{}
	reportID [32]byte
	disk     string
	polite   atomic.Bool // the power button was pressed: it says goodbye
}

// disks remembers the header hash per data volume: it stands for what is on the disk.
var disks sync.Map

func (r *rig) boot(spec cloudsim.BootSpec) (cloudsim.Machine, error) {
	ctx, cancel := context.WithCancel(context.Background())
	m := &machine{rig: r, spec: spec, cancel: cancel, ended: make(chan struct{}), disk: r.t.Name() + spec.Disks[1].Serial}
	rand.Read(m.reportID[:])
	r.guests.Add(1)
	r.mu.Lock()
	r.machines = append(r.machines, m)
	r.mu.Unlock()
	go func() {
		defer close(m.ended)
		_ = m.run(ctx) // a guest that cannot go on powers off
	}()
	return m, nil
}

func (m *machine) Powerdown(context.Context) error { m.polite.Store(true); m.cancel(); return nil }
func (m *machine) Kill()                           { m.cancel() }
func (m *machine) Done() <-chan struct{}           { return m.ended }

func (m *machine) measure() ([48]byte, error) {
	var sums [2][32]byte
	for i, path := range []string{m.spec.Kernel, m.spec.Initrd} {
		body, err := os.ReadFile(path)
		if err != nil {
			return [48]byte{}, err
		}
		sums[i] = sha256.Sum256(body)
	}
	return attest.LaunchDigest(attest.DigestInput{
		Firmware: m.rig.fw, KernelSHA256: &sums[0], InitrdSHA256: &sums[1], Append: m.spec.Append,
		VCPUs: m.spec.VCPUs, VCPUSig: vcpuSig, GuestFeatures: 1,
	})
}

func (m *machine) evidence(data [64]byte) (door.Evidence, error) {
	if m.rig.tee.OnTDX() {
		return m.quote(data)
	}
	measured, err := m.measure()
	report := append(append(data[:], m.reportID[:]...), measured[:]...)
	return door.Evidence{TEE: string(attest.SEVSNP), Report: report}, err
}

func (m *machine) run(ctx context.Context) error {
	req := door.ChallengeRequest{Generation: 1, Purpose: door.Unlock}
	for _, word := range strings.Fields(m.spec.Append) {
		if v, ok := strings.CutPrefix(word, "siesta.ws="); ok {
			req.Workspace = v
		}
	}
	ch, err := m.rig.broker.Challenge(ctx, req, "guest")
	if err != nil {
		return err
	}
	key, err := door.GenerateKey("X25519")
	if err != nil {
		return err
	}
	public, signing, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	old, formatted := disks.Load(m.disk)
	header := ""
	if formatted {
		header = old.(string)
	}
	data := door.ReportData(door.Binding{
		Challenge: ch.Challenge, Nonce: ch.Nonce, Workspace: req.Workspace, Generation: req.Generation,
		Purpose: req.Purpose, KEM: key.Public().KEM, HPKEKey: key.Public().PublicKey, SigningKey: public, HeaderHash: header,
	})
	evidence, err := m.evidence(data)
	if err != nil {
		return err
	}
	grant, err := m.rig.broker.Grant(ctx, door.GrantRequest{
		Challenge: ch.Challenge, Evidence: evidence,
		HPKE: key.Public(), SigningKey: public, HeaderHash: header,
	}, "guest")
	if err != nil {
		return err
	}
	sealed, err := key.Open(door.GrantInfo(grant.Context, req, ch.Nonce), grant.Sealed)
	if err != nil {
		return err
	}
	seq := 0
	say := func(stage door.Stage, hash string) error {
		m.rig.mu.Lock()
		behave := m.rig.behave
		m.rig.mu.Unlock()
		if behave != nil && stage != door.Stopping {
			if err := behave(stage); err != nil {
				return err
			}
		}
		seq++
		e := door.Event{Seq: seq, Stage: stage, HeaderHash: hash}
		door.SignEvent(signing, grant.Lease.ID, &e)
		ctx := ctx
		if stage == door.Stopping {
			ctx = context.WithoutCancel(ctx)
		}
		_, err := m.rig.broker.Event(ctx, grant.Lease.ID, e, "guest")
		return err
	}
	defer func() {
		if m.polite.Load() {
			_ = say(door.Stopping, "")
		}
	}()
	if sealed.Mode == "initialise" {
		header = fmt.Sprintf("%x", sha256.Sum256(m.reportID[:]))
		if err := say(door.Formatted, header); err != nil {
			return err
		}
		disks.Store(m.disk, header)
	}
	if err := say(door.Unlocked, ""); err != nil {
		return err
	}
	if err := say(door.Ready, ""); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}
