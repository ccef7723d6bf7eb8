package api

import (
	"errors"
	"net/http"
	"net/netip"

	"github.com/go-chi/chi/v5"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/keybroker"
)

// The guests' door. Bodies are parsed by package door; whom to believe is the broker's business.

func (s *Server) challenge(w http.ResponseWriter, r *http.Request) {
	body, ok := s.doorBody(w, r, door.MaxChallengeRequest)
	if !ok {
		return
	}
	req, err := door.DecodeChallengeRequest(body)
	if err != nil {
		s.unreadable(w, r, kindMalformed.because(sentence(err.Error())))
		return
	}
	answer, err := s.cfg.Broker.Challenge(r.Context(), req, peer(r))
	s.doorAnswer(w, r, answer, err)
}

func (s *Server) grant(w http.ResponseWriter, r *http.Request) {
	body, ok := s.doorBody(w, r, door.MaxGrantRequest)
	if !ok {
		return
	}
	req, err := door.DecodeGrantRequest(body)
	if err != nil {
		s.unreadable(w, r, kindMalformed.because(sentence(err.Error())))
		return
	}
	answer, err := s.cfg.Broker.Grant(r.Context(), req, peer(r))
	s.doorAnswer(w, r, answer, err)
}

func (s *Server) event(w http.ResponseWriter, r *http.Request) {
	body, ok := s.doorBody(w, r, door.MaxEvent)
	if !ok {
		return
	}
	e, err := door.DecodeEvent(body)
	if err != nil {
		s.unreadable(w, r, kindMalformed.because(sentence(err.Error())))
		return
	}
	lease := chi.URLParam(r, "lease")
	if len(lease) > 64 {
		s.fail(w, r, kindNotFound.because("There is no such lease."))
		return
	}
	answer, err := s.cfg.Broker.Event(r.Context(), lease, e, peer(r))
	s.doorAnswer(w, r, answer, err)
}

func (s *Server) doorBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, bool) {
	body, err := door.ReadBody(http.MaxBytesReader(w, r.Body, limit), r.ContentLength)
	if err != nil {
		if !errors.As(err, new(*http.MaxBytesError)) {
			err = kindMalformed.because("The body could not be read to its end.")
		}
		s.unreadable(w, r, err)
		return nil, false
	}
	return body, true
}

// unreadable answers a guest whose request could not be parsed. It is a refusal like others: counted, and its address pays.
func (s *Server) unreadable(w http.ResponseWriter, r *http.Request, err error) {
	s.countUnreadable(r)
	s.fail(w, r, err)
}

func (s *Server) countUnreadable(r *http.Request) {
	s.metrics.refused.WithLabelValues(attest.CodeFormat).Inc()
	s.cfg.Broker.Unreadable(peer(r))
	callOf(r.Context()).quiet = true
}

// doorAnswer gives a refused guest the id of the decision and nothing else: whoever runs the guest may not be whom it
// belongs to, and what was wrong with it is for its owner, who reads it in explain.
func (s *Server) doorAnswer(w http.ResponseWriter, r *http.Request, answer any, err error) {
	var refusal *keybroker.Refusal
	switch {
	case err == nil:
		writeJSON(w, http.StatusOK, answer)
	case errors.As(err, &refusal):
		s.metrics.refused.WithLabelValues(refusal.Code).Inc()
		level := zap.InfoLevel
		if refusal.Counted {
			level, callOf(r.Context()).quiet = zap.DebugLevel, true
		}
		s.cfg.Logger.Log(level, "guest refused", zap.String("request", callOf(r.Context()).id), zap.String("decision", refusal.ID), zap.String("code", refusal.Code))
		p := kindDoor.because("Refused; decision " + refusal.ID + ".")
		if refusal.Code == keybroker.CodeRate {
			p = kindRate.because("Refused; decision " + refusal.ID + ".")
			p.retry = 5
		}
		s.fail(w, r, p)
	case errors.Is(err, keybroker.ErrBusy):
		p := kindDoorBusy.because("Not now; ask again.")
		p.retry = 2
		s.cfg.Logger.Info("guest told to ask again", zap.String("request", callOf(r.Context()).id), zap.Error(err))
		s.fail(w, r, p)
	case errors.Is(err, keybroker.ErrNotFound), errors.Is(err, keybroker.ErrState), errors.Is(err, keybroker.ErrShredded):
		s.cfg.Logger.Info("guest refused", zap.String("request", callOf(r.Context()).id), zap.Error(err))
		s.fail(w, r, kindDoor.because("Refused; request "+callOf(r.Context()).id+"."))
	default:
		s.fail(w, r, err)
	}
}

// peer is the address that the connection comes from; of IPv6 its network of 64 bits, in which one machine has as many
// addresses as it likes. Headers that claim another are not believed.
func peer(r *http.Request) string {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	addr := at.Addr().Unmap().WithZone("")
	if addr.Is6() {
		return netip.PrefixFrom(addr, 64).Masked().String()
	}
	return addr.String()
}
