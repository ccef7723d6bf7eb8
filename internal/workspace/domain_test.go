package workspace

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/flow/flowtest"
	"github.com/eosc-siesta/siestad/internal/image"
)

// What the registers of a trust domain hold and how a quote is judged is package attest's business. Here each register is the
// hash of what it stands for, and a quote is the registers in a row.

var platform = bytes.Repeat([]byte{0x50}, 16)

func domainPolicy(tee TEE) attest.Policy {
	tdx := attest.NovaTDXPolicy()
	tdx.Platforms, tdx.XFAM = [][]byte{platform}, attest.MaskedBits{Mask: ^uint64(0), Value: 0xe7}
	tdx.RTMRs[0].Any, tdx.RTMRs[3].Values = true, [][]byte{make([]byte, 48)}
	return attest.Policy{TDX: &tdx, Simulated: tee.Simulated()}
}

func imitated(l attest.TDLaunch) (attest.TDReference, error) {
	line := sha512.Sum384(append([]byte(l.CommandLine), l.InitrdSHA384[:]...))
	other := sha512.Sum384([]byte("as another firmware measures the line"))
	kernel := sha512.Sum384(l.Kernel)
	if l.MemoryMiB == 0 || l.InitrdSize == 0 {
		return attest.TDReference{}, errors.New("not all of the launch is known")
	}
	return attest.TDReference{MRTD: sha512.Sum384(l.Firmware), RTMR1: [][]byte{kernel[:]}, RTMR2: [][]byte{other[:], line[:]}}, nil
}

// quote measures what the machine was really given. The event log is what the policy names of it.
func (m *machine) quote(data [64]byte) (door.Evidence, error) {
	kernel, err := os.ReadFile(m.spec.Kernel)
	if err != nil {
		return door.Evidence{}, err
	}
	initrd, err := os.ReadFile(m.spec.Initrd)
	if err != nil {
		return door.Evidence{}, err
	}
	digest := sha512.Sum384(initrd)
	ref, err := imitated(attest.TDLaunch{Firmware: m.rig.fw, Kernel: kernel, InitrdSHA384: digest, InitrdSize: int64(len(initrd)), CommandLine: m.spec.Append, MemoryMiB: m.spec.MemMiB})
	return door.Evidence{
		TEE: string(attest.TDX), Report: slices.Concat(data[:], ref.MRTD[:], ref.RTMR1[0], ref.RTMR2[1]), EventLog: append(digest[:], m.spec.Append...),
	}, err
}

func judgeDomain(ev attest.Evidence, pol attest.Policy) (*attest.Result, error) {
	refuse := func(code string) (*attest.Result, error) {
		return nil, &attest.Refusal{Code: code, Check: code, Checks: []attest.Check{{Name: code, Code: code, Status: attest.Failed}}}
	}
	has := func(list [][]byte, b []byte) bool {
		return slices.ContainsFunc(list, func(x []byte) bool { return bytes.Equal(x, b) })
	}
	q, p := ev.Report, pol.TDX
	switch {
	case len(q) != 64+3*48 || len(ev.EventLog) < 48:
		return refuse(attest.CodeFormat)
	case [64]byte(q) != pol.ReportData:
		return refuse(attest.CodeReportData)
	case !has(p.MRTDs, q[64:112]):
		return refuse(attest.CodeMeasurement)
	case !has(p.RTMRs[1].Values, q[112:160]) || !has(p.RTMRs[2].Values, q[160:]):
		return refuse(attest.CodeRTMR)
	case string(ev.EventLog[48:]) != p.CommandLine || !has(p.Initrds, ev.EventLog[:48]):
		return refuse(attest.CodeEventLog)
	}
	res := &attest.Result{TEE: attest.TDX, Product: "a0b1c2d3e4f5", ReportData: pol.ReportData, ReportID: sha256.Sum256(q), Simulated: pol.Simulated, Measurement: [48]byte(q[64:])}
	copy(res.ChipID[:], p.Platforms[0])
	return res, nil
}

// TestLifeOnTDX is a workspace's whole life on either kind of site, with what its flows carry read back after each step.
func TestLifeOnTDX(t *testing.T) {
	for _, tee := range []TEE{TDX, SimulatedTDX} {
		t.Run(string(tee), func(t *testing.T) {
			ctx, r := flowtest.Context(t), newRigOn(t, tee)
			var runner *flow.Runner
			r.svc, runner = r.service(func(_ *flow.Config, c *Config) { c.wrap = restarted(t) })
			flowtest.Run(t, runner)
			w, op := r.create(ctx, r.svc)
			r.await(ctx, op, flow.StateSucceeded)
			w, err := r.svc.Get(ctx, w.ID)
			if err != nil || w.State != Ready || w.Simulated != (tee == SimulatedTDX) || len(w.Measurements) != 4 {
				t.Fatalf("%+v (%v)", w, err)
			}
			firmware := sha512.Sum384(r.fw)
			if w.Measurements[0] != "mrtd "+hex.EncodeToString(firmware[:]) || !strings.HasPrefix(w.Measurements[1], "rtmr1 ") || !strings.HasPrefix(w.Measurements[3], "rtmr2 ") {
				t.Errorf("shown as %q", w.Measurements)
			}
			arm, err := r.broker.Armed(ctx, w.ID)
			if err != nil {
				t.Fatal(err)
			}
			initrd := sha512.Sum384([]byte("initrd"))
			p, own := arm.Policy.TDX, domainPolicy(tee).TDX
			if p == nil || p.CommandLine != w.Line || !bytes.Equal(p.Initrds[0], initrd[:]) || len(p.RTMRs[2].Values) != 2 || !p.RTMRs[0].Any || len(p.RTMRs[3].Values) != 1 ||
				!bytes.Equal(p.Platforms[0], platform) || p.XFAM != own.XFAM || len(arm.Policy.Measurements) != 0 {
				t.Errorf("armed for %s", arm.Policy.Canonical())
			}
			w.Simulated, arm.Policy.Simulated = false, false
			if _, err := w.ReferenceValues(arm, r.image, "p"); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), "trust domains") {
				t.Errorf("reference values: %v", err)
			}
			r.await(ctx, r.begin(ctx, r.svc, r.svc.Reboot, w.ID), flow.StateSucceeded)
			r.await(ctx, r.begin(ctx, r.svc, r.svc.Delete, w.ID), flow.StateSucceeded)
			if err := r.nothing(); err != nil {
				t.Error(err)
			}
		})
	}
}

// restarted loses after each step what a new process would not know: what is not in the run's JSON.
func restarted(t *testing.T) func(flow.Flow[run]) flow.Flow[run] {
	return func(f flow.Flow[run]) flow.Flow[run] {
		for i := range f.Steps {
			do := f.Steps[i].Do
			if do == nil {
				continue
			}
			f.Steps[i].Do = func(ctx context.Context, r *run) error {
				err := do(ctx, r)
				body, jsonErr := json.Marshal(r)
				*r = run{}
				if jsonErr = errors.Join(jsonErr, json.Unmarshal(body, r)); jsonErr != nil {
					t.Error(jsonErr)
				}
				return err
			}
		}
		return f
	}
}

// A guest with another kernel, initrd or line than those of its image and its workspace gets no key.
func TestTamperedDomain(t *testing.T) {
	for name, c := range map[string]struct {
		launch func(l *attest.TDLaunch)
		code   string
	}{
		"firmware": {func(l *attest.TDLaunch) { l.Firmware = []byte("other") }, attest.CodeMeasurement},
		"kernel":   {func(l *attest.TDLaunch) { l.Kernel = []byte("other") }, attest.CodeRTMR},
		"initrd":   {func(l *attest.TDLaunch) { l.InitrdSHA384[0] ^= 1 }, attest.CodeRTMR},
		"line":     {func(l *attest.TDLaunch) { l.CommandLine += " x" }, attest.CodeRTMR},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, r := flowtest.Context(t), newRigOn(t, TDX)
			r.reference = func(l attest.TDLaunch) (attest.TDReference, error) {
				c.launch(&l)
				return imitated(l)
			}
			r = r.running()
			w, op := r.create(ctx, r.svc)
			r.await(ctx, op, flow.StateFailed)
			if e, err := r.svc.Explain(ctx, w.ID); err != nil || e.Refusal != c.code {
				t.Errorf("refused with %q (%v)", e.Refusal, err)
			}
		})
	}
}

// Without values to compare with nothing is made that could ask for a key, and the workspace says who can do what.
func TestDomainWithoutReferenceValues(t *testing.T) {
	ctx, r := flowtest.Context(t), newRigOn(t, TDX)
	r.reference = func(attest.TDLaunch) (attest.TDReference, error) {
		return attest.TDReference{}, errors.New("no TDX metadata")
	}
	r = r.running()
	w, op := r.create(ctx, r.svc)
	r.await(ctx, op, flow.StateFailed)
	w, err := r.svc.Get(ctx, w.ID)
	if err != nil || w.Reason.Code != codeImage || !strings.Contains(w.Reason.Fix, "TDX") || r.guests.Load() != 0 {
		t.Errorf("%+v, %d guests (%v)", w.Reason, r.guests.Load(), err)
	}
	if err := r.nothing(); err != nil {
		t.Error(err)
	}
}

// changedImages hands out another file than the one that was approved.
type changedImages struct {
	Images
	kind *image.File
}

func (c changedImages) Open(ctx context.Context, digest [32]byte) (io.ReadCloser, error) {
	if c.kind.SHA256 == digest {
		return io.NopCloser(strings.NewReader("another file")), nil
	}
	return c.Images.Open(ctx, digest)
}

func TestMeasuredIsWhatWasApproved(t *testing.T) {
	ctx, r := flowtest.Context(t), newRigOn(t, TDX)
	svc, _ := r.service(nil)
	for name, file := range map[string]*image.File{"firmware": &r.image.Firmware, "kernel": &r.image.Kernel, "initrd": &r.image.Initrd} {
		svc.cfg.Images = changedImages{r.images, file}
		if d, err := svc.domain(ctx, r.image, "line", 512); err == nil || d != nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "not what was approved") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// storedImages are files in memory, which come whoever has stopped waiting for them.
type storedImages struct {
	Images
	files map[[32]byte]string
}

func (s storedImages) Open(_ context.Context, digest [32]byte) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(s.files[digest])), nil
}

func TestOneKernelInMemory(t *testing.T) {
	img, files := image.Image{}, map[[32]byte]string{}
	for body, f := range map[string]*image.File{"firmware": &img.Firmware, "kernel": &img.Kernel, "initrd": &img.Initrd} {
		f.SHA256, f.Size = sha256.Sum256([]byte(body)), int64(len(body))
		files[f.SHA256] = body
	}
	s := &Service{measuring: make(chan struct{}, 1)}
	s.cfg.Images = storedImages{files: files}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	s.cfg.reference = func(l attest.TDLaunch) (attest.TDReference, error) {
		if _, err := s.domain(gone, img, "another line", 512); !errors.Is(err, context.Canceled) {
			t.Errorf("a second is measured meanwhile: %v", err)
		}
		return imitated(l)
	}
	if _, err := s.domain(t.Context(), img, "line", 512); err != nil {
		t.Error(err)
	}
	s.cfg.reference = imitated
	if _, err := s.domain(t.Context(), img, "line", 512); err != nil {
		t.Errorf("after the first: %v", err)
	}
}

func TestPolicyNeedsItsSite(t *testing.T) {
	snp, tdx := &Site{Name: "s", TEE: SEVSNP}, &Site{Name: "s", TEE: TDX, Policy: domainPolicy(TDX)}
	var p *flow.Problem
	if _, err := policyOf(snp, &run{Domain: &domain{}}); !errors.As(err, &p) || p.Code != codeConfig {
		t.Errorf("a trust domain at a site of SEV-SNP: %v", err)
	}
	if _, err := policyOf(tdx, &run{Measurements: []string{"00"}}); !errors.As(err, &p) || p.Code != codeConfig {
		t.Errorf("a launch digest at a site of TDX: %v", err)
	}
	if _, err := policyOf(tdx, &run{Domain: &domain{}}); err != nil || len(tdx.Policy.TDX.MRTDs) != 0 || len(tdx.Policy.TDX.RTMRs[1].Values) != 0 || tdx.Policy.TDX.CommandLine != "" {
		t.Errorf("the site's own policy was changed: %+v (%v)", tdx.Policy.TDX, err)
	}
}

func TestSitesOfTDX(t *testing.T) {
	for name, c := range map[string]struct {
		change func(s *Site)
		says   string
	}{
		"as it must be":  {func(*Site) {}, ""},
		"simulated":      {func(s *Site) { s.TEE = SimulatedTDX }, "simulated"},
		"no policy":      {func(s *Site) { s.Policy.TDX = nil }, "whether its TEE is TDX"},
		"a product line": {func(s *Site) { s.Policy.Products = []string{attest.Genoa} }, "whether its TEE is TDX"},
		"a chip":         {func(s *Site) { s.Policy.Chips = [][]byte{make([]byte, 64)} }, "whether its TEE is TDX"},
		"a TDX policy for SEV-SNP": {func(s *Site) {
			s.TEE, s.VCPUSigs, s.GuestFeatures = SEVSNP, []uint32{1}, []uint64{1}
		}, "whether its TEE is TDX"},
		"a processor": {func(s *Site) { s.VCPUSigs = []uint32{1} }, "does not measure"},
		"features":    {func(s *Site) { s.GuestFeatures = []uint64{1} }, "does not measure"},
	} {
		s := Site{Name: "s", TEE: TDX, Policy: domainPolicy(TDX)}
		c.change(&s)
		if err := s.checkTEE(); c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if p := bootProperties(TDX, "k", "r", "l"); p["hw_mem_encryption_model"] != "intel-tdx" || p["hw_video_model"] != "none" || p["hw_firmware_stateless"] != "true" || len(p) != 9 {
		t.Errorf("TDX boots with %v", p)
	}
	if p := bootProperties(SimulatedTDX, "k", "r", "l"); p["hw_mem_encryption"] != "" || p["hw_qemu_guest_agent"] != "yes" || len(p) != 4 {
		t.Errorf("a simulated trust domain boots with %v", p)
	}
	for specs, want := range map[[2]string]bool{{"true", "intel-tdx"}: true, {"true", ""}: false, {"", "intel-tdx"}: false, {"true", "amd-sev-snp"}: false} {
		if got := encrypted(TDX, map[string]string{"hw:mem_encryption": specs[0], "hw:mem_encryption_model": specs[1]}); got != want {
			t.Errorf("%v: %t", specs, got)
		}
	}
}
