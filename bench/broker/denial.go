//go:build devtee

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"

	"github.com/eosc-siesta/siestad/internal/door"
)

// denial is a class of requests that must be refused: how it spoils what would have been granted, and whether that shows
// before a signature is looked at.
type denial struct {
	name  string
	early bool
	spoil func(*door.GrantRequest)
	raw   func([]byte) []byte // instead: the encoded body
	wrong bool                // a genuine report of another launch
}

var denials = []denial{
	{name: "not a request", early: true, raw: func(body []byte) []byte { return body[:len(body)/2] }},
	{name: "unknown challenge", early: true, spoil: func(r *door.GrantRequest) { r.Challenge = "01jbenchunknown0000000000a" }},
	{name: "forged signature", spoil: func(r *door.GrantRequest) { r.Evidence.Report[0x2a0] ^= 1 }},
	{name: "report of another challenge", spoil: func(r *door.GrantRequest) { r.Evidence.Report[0x50] ^= 1 }},
	{name: "wrong measurement", wrong: true},
}

// deny measures one class in the state that prepareRequests leaves: every guest armed, each with a fresh challenge.
func (w *world) deny(ctx context.Context, dir string, connections int, d denial) (sample, error) {
	w.wrongLaunch = d.wrong
	bodies, err := w.prepareBodies(ctx)
	w.wrongLaunch = false
	if err != nil {
		return sample{}, err
	}
	requests := make([][]byte, len(bodies))
	for i, r := range bodies {
		if d.spoil != nil {
			r.Evidence.Report = slices.Clone(r.Evidence.Report)
			d.spoil(&r)
		}
		body, err := json.Marshal(r)
		if err != nil {
			return sample{}, err
		}
		if d.raw != nil {
			body = d.raw(body)
		}
		requests[i] = request("/v1/grants", body)
	}
	path, answers := filepath.Join(dir, "denials"), filepath.Join(dir, "answers")
	if err := writeRequests(path, requests); err != nil {
		return sample{}, err
	}
	s, err := w.burst(ctx, path, answers, connections, len(requests), http.StatusForbidden)
	if err != nil {
		return sample{}, err
	}
	list, err := readAnswers(answers)
	if err != nil {
		return sample{}, err
	}
	for i, body := range list {
		if _, err := door.DecodeGrant(body); err == nil {
			return sample{}, fmt.Errorf("%s: request %d was granted", d.name, i)
		}
	}
	return s, nil
}

// reportDenials prints KR7: what a refusal costs the server, against the release it would have been.
func (w *world) reportDenials(ctx context.Context, dir string, connections, repetitions int, release func() (sample, error)) error {
	for _, d := range denials {
		var ratios []float64
		for range repetitions {
			r, err := release()
			if err != nil {
				return err
			}
			s, err := w.deny(ctx, dir, connections, d)
			if err != nil {
				return err
			}
			ratios = append(ratios, float64(s.cpu)/float64(r.cpu))
		}
		slices.Sort(ratios)
		goal := "≤ 1.00"
		if d.early {
			goal = "< 0.10"
		}
		fmt.Printf("KR7  %-38s  median %.2f  min %.2f  max %.2f   goal %s\n", "refusal / release: "+d.name, ratios[len(ratios)/2], ratios[0], ratios[len(ratios)-1], goal)
	}
	return nil
}
