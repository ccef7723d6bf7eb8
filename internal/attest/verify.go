package attest

import (
	"sync/atomic"
	"time"
)

// Verifier is Verify with memory: chains that it has proved are proved once. It
// is safe for concurrent use, and its zero value is ready.
type Verifier struct {
	cache  chainCache
	panics atomic.Uint64
}

// Panics counts evidence that made the code below the boundary panic. Anything
// but zero is a bug to be reported.
func (v *Verifier) Panics() uint64 { return v.panics.Load() }

// Verify judges evidence at an instant. It returns a Result or a *Refusal.
func (v *Verifier) Verify(ev Evidence, col Collateral, pol Policy, at time.Time) (*Result, error) {
	return guarded(&v.cache, &v.panics, ev, col, pol, at)
}

// Verify judges evidence at an instant. It returns a Result, or a *Refusal; no
// other error exists. It is pure, and proves the whole certificate chain each
// time; a service uses a Verifier.
func Verify(ev Evidence, col Collateral, pol Policy, at time.Time) (*Result, error) {
	var panics atomic.Uint64
	return guarded(nil, &panics, ev, col, pol, at)
}

// guarded is the boundary: whatever hostile bytes do below it ends in a refusal.
func guarded(cache *chainCache, panics *atomic.Uint64, ev Evidence, col Collateral, pol Policy, at time.Time) (res *Result, err error) {
	table := snpTable
	if ev.TEE == TDX {
		table = tdxTable
	}
	v := newVerdict(table)
	defer func() {
		if p := recover(); p != nil {
			// The panic value may quote evidence, so it goes nowhere.
			panics.Add(1)
			v.fail(checkLayout, "", "", "the evidence broke the reader")
			r := v.refusal()
			r.Sent = ev.Certificates // whatever broke it is in there
			res, err = nil, r
		}
	}()
	j := judgement{verdict: v, cache: cache, col: col, pol: pol, at: at}
	switch ev.TEE {
	case SEVSNP:
		v.pass(checkTEE, string(SEVSNP))
		res = j.snp(ev)
	case TDX:
		v.pass(checkTEE, string(TDX))
		res = j.tdx(ev)
	default:
		// Neither the name nor its length is echoed: it is the sender's.
		v.fail(checkTEE, string(SEVSNP)+" or "+string(TDX), "", "this kind of evidence is not known")
	}
	if v.failed || res == nil {
		r := v.refusal()
		r.Sent = j.sent
		if res != nil {
			r.Product = res.Product
		}
		return nil, r
	}
	res.Checks, res.Sent = v.checks, j.sent
	return res, nil
}
