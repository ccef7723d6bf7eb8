package attest

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"testing"
	"time"
)

// sample is one genuine report with what it says of itself.
type sample struct {
	name     string
	evidence Evidence
	product  string
	policy   Policy
	at       time.Time
}

func day(s string) time.Time {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		panic(err)
	}
	return t
}

// accepting is the policy that admits exactly this report, as far as the code's
// own gates let it pass.
func accepting(report []byte, product string) Policy {
	tcb, _ := tcbFrom(binary.LittleEndian.Uint64(report[0x180:]), product)
	p := NovaPolicy(map[string]TCB{product: tcb})
	p.RequirePolicy = binary.LittleEndian.Uint64(report[0x008:])
	p.Measurements = [][]byte{report[0x090:0x0c0]}
	p.Chips = [][]byte{report[0x1a0:0x1e0]}
	copy(p.ReportData[:], report[0x050:0x090])
	return p
}

func newSample(name, product string, report, certificates []byte, at time.Time) sample {
	return sample{
		name: name, product: product, at: at, policy: accepting(report, product),
		evidence: Evidence{TEE: SEVSNP, Report: report, Certificates: certificates},
	}
}

func milan(t testing.TB) sample {
	return newSample("Milan v2", Milan, file(t, "milan-v2-report.bin"), file(t, "milan-v2-vcek.der"), day("2026-11-23"))
}

func debugged(t testing.TB) sample {
	return newSample("debug guest", Milan, file(t, "debug-v2-report.bin"), file(t, "debug-v2-vcek.der"), day("2026-11-23"))
}

func sienaV5(t testing.TB) sample {
	return newSample("Siena v5", Genoa, file(t, "siena-v5-report.bin"), file(t, "siena-v5-vcek.der"), day("2026-11-23"))
}

func sienaV3(t testing.TB) sample {
	report, vcek := rebuild(t, file(t, "siena-v3-kbs-evidence.json"))
	return newSample("Siena v3", Genoa, report, vcek, day("2026-11-23"))
}

func genuineSamples(t testing.TB) []sample {
	return []sample{milan(t), debugged(t), sienaV3(t), sienaV5(t)}
}

func amd() Collateral { return Collateral{Roots: AMDRoots()} }

// numbers are byte arrays written as arrays of integers.
type numbers []byte

func (n *numbers) UnmarshalJSON(data []byte) error {
	var list []uint8
	var wide []uint16
	if err := json.Unmarshal(data, &wide); err != nil {
		return err
	}
	for _, w := range wide {
		if w > 255 {
			return errors.New("not a byte")
		}
		list = append(list, uint8(w))
	}
	*n = list
	return nil
}

// rebuild makes the 1184 bytes that were signed from a parsed report, and finds
// the VCEK that came with it.
func rebuild(t testing.TB, data []byte) (report, vcek []byte) {
	t.Helper()
	type tcb struct{ Bootloader, TEE, SNP, Microcode uint8 }
	type build struct{ Major, Minor, Build uint8 }
	type evidence struct {
		Report struct {
			Version         uint32  `json:"version"`
			GuestSVN        uint32  `json:"guest_svn"`
			Policy          uint64  `json:"policy"`
			FamilyID        numbers `json:"family_id"`
			ImageID         numbers `json:"image_id"`
			VMPL            uint32  `json:"vmpl"`
			SigAlgo         uint32  `json:"sig_algo"`
			CurrentTCB      tcb     `json:"current_tcb"`
			PlatInfo        uint64  `json:"plat_info"`
			KeyInfo         uint32  `json:"key_info"`
			ReportData      numbers `json:"report_data"`
			Measurement     numbers `json:"measurement"`
			HostData        numbers `json:"host_data"`
			IDKeyDigest     numbers `json:"id_key_digest"`
			AuthorKeyDigest numbers `json:"author_key_digest"`
			ReportID        numbers `json:"report_id"`
			ReportIDMA      numbers `json:"report_id_ma"`
			ReportedTCB     tcb     `json:"reported_tcb"`
			Family          uint8   `json:"cpuid_fam_id"`
			Model           uint8   `json:"cpuid_mod_id"`
			Stepping        uint8   `json:"cpuid_step"`
			ChipID          numbers `json:"chip_id"`
			CommittedTCB    tcb     `json:"committed_tcb"`
			Current         build   `json:"current"`
			Committed       build   `json:"committed"`
			LaunchTCB       tcb     `json:"launch_tcb"`
			Signature       struct {
				R numbers `json:"r"`
				S numbers `json:"s"`
			} `json:"signature"`
		} `json:"attestation_report"`
		Chain []struct {
			Type json.RawMessage `json:"cert_type"`
			Data numbers         `json:"data"`
		} `json:"cert_chain"`
	}
	var e evidence
	if err := json.Unmarshal(data, &e); err != nil {
		t.Fatal(err)
	}
	if len(e.Report.ReportData) == 0 {
		// The file wraps the evidence of one guest in a list or object of its own.
		t.Fatal("the sample has another shape")
	}
	le := binary.LittleEndian
	b := make([]byte, 1184)
	r := e.Report
	putTCB := func(at int, v tcb) { b[at], b[at+1], b[at+6], b[at+7] = v.Bootloader, v.TEE, v.SNP, v.Microcode }
	le.PutUint32(b[0x000:], r.Version)
	le.PutUint32(b[0x004:], r.GuestSVN)
	le.PutUint64(b[0x008:], r.Policy)
	copy(b[0x010:], r.FamilyID)
	copy(b[0x020:], r.ImageID)
	le.PutUint32(b[0x030:], r.VMPL)
	le.PutUint32(b[0x034:], r.SigAlgo)
	putTCB(0x038, r.CurrentTCB)
	le.PutUint64(b[0x040:], r.PlatInfo)
	le.PutUint32(b[0x048:], r.KeyInfo)
	copy(b[0x050:], r.ReportData)
	copy(b[0x090:], r.Measurement)
	copy(b[0x0c0:], r.HostData)
	copy(b[0x0e0:], r.IDKeyDigest)
	copy(b[0x110:], r.AuthorKeyDigest)
	copy(b[0x140:], r.ReportID)
	copy(b[0x160:], r.ReportIDMA)
	putTCB(0x180, r.ReportedTCB)
	b[0x188], b[0x189], b[0x18a] = r.Family, r.Model, r.Stepping
	copy(b[0x1a0:], r.ChipID)
	putTCB(0x1e0, r.CommittedTCB)
	b[0x1e8], b[0x1e9], b[0x1ea] = r.Current.Build, r.Current.Minor, r.Current.Major
	b[0x1ec], b[0x1ed], b[0x1ee] = r.Committed.Build, r.Committed.Minor, r.Committed.Major
	putTCB(0x1f0, r.LaunchTCB)
	copy(b[0x2a0:], r.Signature.R)
	copy(b[0x2e8:], r.Signature.S)
	for _, c := range e.Chain {
		if string(c.Type) == `"VCEK"` {
			vcek = c.Data
		}
	}
	return b, vcek
}
