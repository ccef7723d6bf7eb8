//go:build devtee

package main

import (
	"encoding/binary"
	"fmt"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/lab/softtd"
)

// rootsOfIntel is the kind of a root that stands in for Intel's.
const rootsOfIntel = "Intel"

type madeDomain struct {
	id, about string
	attacks   []int
	boot      func(*softtd.Boot)
	logOf     func(*softtd.Boot) // the boot that the log is of, if another
	noLog     bool
	alter     func([]byte)
	change    func(*attest.Policy)
	genuine   bool
}

// tdxMade are domains that are bound to a line, of which no genuine sample is public, and domains that are wrong in one thing
// while every signature is good.
func tdxMade(w *writer) ([]testCase, error) {
	attributes := func(bit uint64) func([]byte) {
		return func(q []byte) { binary.LittleEndian.PutUint64(q[softtd.AttributesAt:], attest.NovaTDAttributes|bit) }
	}
	otherLine := func(b *softtd.Boot) { b.Line += " init=/bin/sh" }
	otherInitrd := func(b *softtd.Boot) { b.Initrd[0]++ }
	otherKernel := func(b *softtd.Boot) { b.Kernel[0]++ }
	var out []testCase
	for _, version := range []int{4, 5} {
		p, err := softtd.New(softtd.Config{Version: version, Now: now})
		if err != nil {
			return nil, err
		}
		name := fmt.Sprintf("tdx-v%d-line", version)
		rows := []madeDomain{{id: "good", about: "firmware, kernel, line and initrd are the policy's, and the log gives the registers"}}
		if version == 4 {
			rows = append(rows,
				madeDomain{id: "other", about: "one word more on the command line", attacks: []int{10}, boot: otherLine},
				madeDomain{id: "other-initrd", about: "another initrd", attacks: []int{10}, boot: otherInitrd},
				madeDomain{id: "other-kernel", about: "another kernel", attacks: []int{10}, boot: otherKernel},
				madeDomain{id: "other-firmware", about: "other firmware", attacks: []int{9}, boot: func(b *softtd.Boot) { b.MRTD[0]++ }},
				madeDomain{id: "no-log", about: "no event log", attacks: []int{10}, noLog: true},
				madeDomain{id: "good-log", about: "another line, with the log of the good one", attacks: []int{10}, boot: otherLine, logOf: func(*softtd.Boot) {}},
				madeDomain{id: "other-log", about: "the log of another boot", logOf: otherKernel},
				madeDomain{id: "runtime", about: "something in a register that the log has not, and the policy wants empty", alter: func(q []byte) { q[softtd.RTMRsAt+3*48]++ }},
				madeDomain{id: "debug", about: "debugging allowed", attacks: []int{12}, alter: attributes(1 << 0), change: asked(1 << 0)},
				madeDomain{id: "migratable", about: "migration allowed", attacks: []int{13}, alter: attributes(1 << 29), change: asked(1 << 29)},
				madeDomain{id: "perfmon", about: "an attribute that the policy does not admit", attacks: []int{32}, alter: attributes(1 << 63)},
				madeDomain{id: "unknown-attribute", about: "an attribute that nobody knows", attacks: []int{32}, alter: attributes(1 << 40), change: asked(1 << 40)},
				madeDomain{id: "not-simulated", about: "simulated hardware under a policy for genuine", change: func(p *attest.Policy) { p.Simulated = false }},
				madeDomain{id: "intels-root", about: "a root of somebody's own, judged under Intel's", attacks: []int{18}, genuine: true},
			)
		}
		cases, err := madeDomains(w, p, name, rows)
		if err != nil {
			return nil, err
		}
		out = append(out, cases...)
	}
	return out, nil
}

// asked makes the policy ask for an attribute, so that only the code's own gate can refuse it.
func asked(bit uint64) func(*attest.Policy) {
	return func(p *attest.Policy) { p.TDX.Attributes.Value |= bit }
}

func madeDomains(w *writer, p *softtd.Platform, name string, rows []madeDomain) ([]testCase, error) {
	root, err := w.keep(rootsOfIntel, name+"-root.pem", p.Root())
	if err != nil {
		return nil, err
	}
	objects, err := p.Collateral(now.AddDate(0, 0, -1), now.AddDate(0, 0, 1))
	if err != nil {
		return nil, err
	}
	var known []input
	for i, o := range objects {
		in, err := w.keep(o.Kind, fmt.Sprintf("%s-collateral-%d", name, i), o.Bytes)
		if err != nil {
			return nil, err
		}
		known = append(known, in)
	}
	simulated, err := attest.AMDRoots().WithSimulatedIntel(p.Root())
	if err != nil {
		return nil, err
	}
	var out []testCase
	for _, r := range rows {
		c := testCase{ID: name + "-" + r.id, About: r.about, Attacks: r.attacks, At: now, Roots: &root, Collateral: known}
		pol, ev, err := r.made(p)
		if err != nil {
			return nil, err
		}
		if c.Report, err = w.keep("", c.ID+".bin", ev.Report); err != nil {
			return nil, err
		}
		if ev.EventLog != nil {
			in, err := w.keep("", c.ID+".log", ev.EventLog)
			if err != nil {
				return nil, err
			}
			c.EventLog = &in
		}
		col := attest.Collateral{Roots: attest.AMDRoots()}
		if r.genuine {
			c.Roots, c.Collateral, pol.Simulated = nil, nil, false // Intel's objects would not even be read under another root
		} else if col, err = attest.NewCollateral(simulated, objects); err != nil {
			return nil, err
		}
		c.close(ev, col, pol)
		out = append(out, c)
	}
	return out, nil
}

// made is a domain's evidence and the policy for the good one.
func (r madeDomain) made(p *softtd.Platform) (attest.Policy, attest.Evidence, error) {
	good := softtd.Boot{MRTD: [48]byte{1}, Kernel: [48]byte{2}, Initrd: [48]byte{3}, Line: "console=ttyS0 siesta.ws=01j00000000000000000000000 siesta.gen=1"}
	_, wanted := good.EventLog()
	ppid := p.PPID()
	td := attest.NovaTDXPolicy()
	td.Platforms, td.MRTDs, td.XFAM = [][]byte{ppid[:]}, [][]byte{good.MRTD[:]}, attest.MaskedBits{Mask: ^uint64(0), Value: softtd.XFAM}
	td.RTMRs = [4]attest.RTMRRule{{Any: true}, {Values: [][]byte{wanted[1][:]}}, {Any: true}, {Values: [][]byte{make([]byte, 48)}}}
	td.CommandLine, td.Initrds = good.Line, [][]byte{good.Initrd[:]}
	pol := attest.Policy{TDX: &td, ReportData: [64]byte{2}, Simulated: true}
	if r.change != nil {
		r.change(&pol)
	}

	booted := good
	if r.boot != nil {
		r.boot(&booted)
	}
	log, registers := booted.EventLog()
	quote, err := p.Sign(softtd.Quote{MRTD: booted.MRTD, RTMRs: registers, ReportData: pol.ReportData, Alter: r.alter})
	if err != nil {
		return pol, attest.Evidence{}, err
	}
	if r.logOf != nil {
		logged := good
		r.logOf(&logged)
		log, _ = logged.EventLog()
	}
	if r.noLog {
		log = nil
	}
	return pol, attest.Evidence{TEE: attest.TDX, Report: quote, EventLog: log}, nil
}
