//go:build devtee

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/lab/softpsp"
	"github.com/eosc-siesta/siestad/internal/lab/vendors"
)

// sample is one storm, of the registered guests.
type sample struct{ wall, p99 time.Duration }

// parallel is how many guests are answered at a time.
const parallel = 32

// storm lets every guest attest once, and says what the vendor was asked meanwhile and shortly after. strangers adds guests
// on chips that nobody registered.
func (w *world) storm(ctx context.Context, limit vendors.Limit, empty, strangers bool) (sample, int, error) {
	bodies, err := w.prepare(ctx, strangers)
	if err != nil {
		return sample{}, 0, err
	}
	if empty {
		if err := w.restart(ctx); err != nil {
			return sample{}, 0, err
		}
	}
	w.vendor.SetLimit(limit)
	before := len(w.vendor.Requests())
	work := make(chan int, len(bodies))
	for i := range bodies {
		work <- i
	}
	close(work)
	took, failures := make([]time.Duration, len(bodies)), make([]error, len(bodies))
	var wait sync.WaitGroup
	begin := time.Now()
	for range parallel {
		wait.Go(func() {
			for i := range work {
				start := time.Now()
				// Each from an address of its own: what is measured is not the limit on a peer's refusals.
				_, err := w.broker.Grant(ctx, bodies[i].request, strconv.FormatUint(w.peers.Add(1), 10))
				took[i], failures[i] = time.Since(start), expected(bodies[i].stranger, err)
			}
		})
	}
	wait.Wait()
	s := sample{wall: time.Since(begin)}
	if err := errors.Join(failures...); err != nil {
		return sample{}, 0, err
	}
	var own []time.Duration
	for i := range bodies {
		if !bodies[i].stranger {
			own = append(own, took[i])
		}
	}
	slices.Sort(own)
	s.p99 = own[len(own)*99/100]
	if strangers {
		// What was asked for goes to the vendor behind the answers: it has arrived when nothing more comes.
		for last := -1; last != len(w.vendor.Requests()); time.Sleep(3 * time.Second) {
			last = len(w.vendor.Requests())
		}
	}
	return s, len(w.vendor.Requests()) - before, nil
}

// expected: registered guests are answered, strangers are refused for want of their chip's certificate.
func expected(stranger bool, err error) error {
	var refusal *keybroker.Refusal
	if !stranger {
		return err
	}
	if errors.As(err, &refusal) && refusal.Code == attest.CodeCollateral {
		return nil
	}
	return fmt.Errorf("a guest on an unregistered chip: %v, want code %s", err, attest.CodeCollateral) //nolint:errorlint // nothing to unwrap to
}

type body struct {
	request  door.GrantRequest
	stranger bool
}

// prepare puts every guest before its release: armed, with a challenge and a report over it. None of this is measured.
func (w *world) prepare(ctx context.Context, strangers bool) ([]body, error) {
	batch := &pgx.Batch{}
	batch.Queue(`UPDATE broker_lease SET state = 'ended', ended_why = 'bench', until = now(), sealed_enc = NULL, sealed_text = NULL WHERE until > now()`)
	batch.Queue(`UPDATE broker_arm SET state = 'armed', epoch = epoch + 1, report_id = NULL`)
	if err := w.db.SendBatch(ctx, batch).Close(); err != nil {
		return nil, err
	}
	var out []body
	for i, g := range w.guests {
		stranger := i >= w.registered
		if stranger && !strangers {
			break
		}
		challenge, err := w.broker.Challenge(ctx, g.request, "bench")
		if err != nil {
			return nil, err
		}
		var reportID [32]byte
		_, _ = rand.Read(reportID[:])
		pub := g.hpke.Public()
		own := measurement
		copy(own[:], g.workspace)
		report, err := g.psp.Sign(softpsp.Report{Measurement: own, ReportID: reportID, ReportData: door.ReportData(door.Binding{
			Challenge: challenge.Challenge, Nonce: challenge.Nonce, Workspace: g.workspace, Generation: 1, Purpose: door.Unlock,
			KEM: pub.KEM, HPKEKey: pub.PublicKey, SigningKey: g.signing,
		})})
		if err != nil {
			return nil, err
		}
		out = append(out, body{door.GrantRequest{
			Challenge: challenge.Challenge, HPKE: pub, SigningKey: g.signing,
			Evidence: door.Evidence{TEE: string(attest.SEVSNP), Report: report},
		}, stranger})
	}
	return out, nil
}
