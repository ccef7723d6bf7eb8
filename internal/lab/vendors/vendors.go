//go:build devtee

// Package vendors plays AMD's key distribution service and Intel's provisioning certification service over HTTP, for
// tests and benchmarks. It is compiled into development builds only.
//
// It serves what it was given, byte for byte, refuses what the real services refuse (404, 429 with Retry-After), counts
// every request, and can be told to fail. It proves nothing and holds no key.
package vendors

import (
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/lab/softpsp"
	"github.com/eosc-siesta/siestad/internal/lab/softtd"
)

// Fault is a way to fail.
type Fault string

// The faults; the zero value is none.
const (
	Throttled Fault = "429"
	Broken    Fault = "500"
	Hang      Fault = "hang"      // no answer until the client gives up
	Truncated Fault = "truncated" // half of the object
	Wrong     Fault = "wrong"     // another object than was asked for
	Endless   Fault = "endless"   // more than any object has
)

// Limit is how often the service answers one client; the zero value is no limit.
type Limit struct {
	Every time.Duration // one request in this time; AMD's is about 10 seconds
}

type object struct{ body, chain []byte }

// Service is one emulated vendor, or both. The zero value has nothing; Now must be set if there is a limit.
type Service struct {
	Now func() time.Time

	mu       sync.Mutex
	limit    Limit
	last     time.Time
	fault    Fault
	objects  map[string]object
	requests []string
}

// SetLimit changes how often it answers.
func (s *Service) SetLimit(l Limit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit, s.last = l, time.Time{}
}

// SetFault makes every further request fail in this way; empty ends it.
func (s *Service) SetFault(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// Requests lists what was asked for, refused or not.
func (s *Service) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.requests...)
}

// Put serves an object at a path with its query.
func (s *Service) Put(path string, body, chain []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects == nil {
		s.objects = make(map[string]object)
	}
	s.objects[path] = object{body, chain}
}

// PutChip serves what AMD has of a machine: its certificate and its line's chain.
func (s *Service) PutChip(p *softpsp.PSP) {
	tcb, id := p.TCB(), p.ChipID()
	short := id[:]
	fmc := ""
	if p.ProductLine() == attest.Turin {
		short, fmc = id[:8], "fmcSPL="+two(tcb.FMC)+"&"
	}
	base := "/vcek/v1/" + p.ProductLine() + "/"
	s.Put(base+attest.ChipKey(short)+"?"+fmc+"blSPL="+two(tcb.Bootloader)+"&teeSPL="+two(tcb.TEE)+"&snpSPL="+two(tcb.SNP)+"&ucodeSPL="+two(tcb.Microcode), p.VCEK(), nil)
	s.Put(base+"cert_chain", p.Roots(), nil)
}

// RootCRLPath is where PutPlatform serves the revocation list of the simulated root.
const RootCRLPath = "/IntelSGXRootCA.der"

// PutPlatform serves what Intel has of a machine's kind, in force from one instant to another.
func (s *Service) PutPlatform(p *softtd.Platform, from, until time.Time) error {
	objects, err := p.Collateral(from, until)
	if err != nil {
		return err
	}
	for _, o := range objects {
		switch o.Kind {
		case attest.KindTCBInfo:
			s.Put("/tdx/certification/v4/tcb?fmspc="+softtd.FMSPC, o.Bytes, p.TCBChain())
		case attest.KindQEIdentity:
			s.Put("/tdx/certification/v4/qe/identity", o.Bytes, p.TCBChain())
		case attest.KindPCKCRL:
			s.Put("/sgx/certification/v4/pckcrl?ca=platform&encoding=der", o.Bytes, p.PCKCRLChain())
		case attest.KindIntelRootCRL:
			s.Put(RootCRLPath, o.Bytes, nil)
		}
	}
	return nil
}

// PutCRL serves the revocation list of a line.
func (s *Service) PutCRL(line string, der []byte) { s.Put("/vcek/v1/"+line+"/crl", der, nil) }

// PutVLEKCRL serves the list of a line's providers' keys.
func (s *Service) PutVLEKCRL(line string, der []byte) { s.Put("/vlek/v1/"+line+"/crl", der, nil) }

func two(n uint8) string {
	text := strconv.Itoa(int(n))
	if n < 10 {
		return "0" + text
	}
	return text
}

func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, r.URL.RequestURI())
	o, ok := s.objects[r.URL.RequestURI()]
	fault, wait := s.fault, time.Duration(0)
	if s.limit.Every > 0 {
		now := s.Now()
		if wait = s.last.Add(s.limit.Every).Sub(now); s.last.IsZero() || wait <= 0 {
			s.last, wait = now, 0
		}
	}
	if fault == Throttled {
		wait = 10 * time.Second
	}
	if fault == Wrong {
		for path, other := range s.objects {
			if path != r.URL.RequestURI() {
				o, ok = other, true
			}
		}
	}
	s.mu.Unlock()
	switch {
	case fault == Hang:
		<-r.Context().Done()
		return
	case wait > 0:
		w.Header().Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
		http.Error(w, "too many requests", http.StatusTooManyRequests)
		return
	case fault == Broken:
		http.Error(w, "broken", http.StatusInternalServerError)
		return
	case !ok:
		http.NotFound(w, r)
		return
	}
	body := o.body
	switch fault {
	case Truncated:
		body = body[:len(body)/2]
	case Endless:
		body = make([]byte, 2<<20)
	}
	for _, header := range []string{"TCB-Info-Issuer-Chain", "SGX-Enclave-Identity-Issuer-Chain", "SGX-PCK-CRL-Issuer-Chain"} {
		if o.chain != nil {
			w.Header().Set(header, url.QueryEscape(string(o.chain)))
		}
	}
	_, _ = w.Write(body)
}
