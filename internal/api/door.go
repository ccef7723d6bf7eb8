package api

import (
	"errors"
	"io"
	"net"
	"net/http"

	"github.com/go-chi/chi/v5"
	"go.uber.org/zap"

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
		s.fail(w, r, kindMalformed.because(sentence(err.Error())))
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
		s.fail(w, r, kindMalformed.because(sentence(err.Error())))
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
		s.fail(w, r, kindMalformed.because(sentence(err.Error())))
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
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		if !errors.As(err, new(*http.MaxBytesError)) {
			err = kindMalformed.because("The body could not be read to its end.")
		}
		s.fail(w, r, err)
		return nil, false
	}
	return body, true
}

// doorAnswer gives a refused guest the id of the decision and nothing else: whoever runs the guest may not be whom it
// belongs to, and what was wrong with it is for its owner, who reads it in explain.
func (s *Server) doorAnswer(w http.ResponseWriter, r *http.Request, answer any, err error) {
	var refusal *keybroker.Refusal
	switch {
	case err == nil:
		writeJSON(w, http.StatusOK, answer)
	case errors.As(err, &refusal):
		s.cfg.Logger.Info("guest refused", zap.String("request", callOf(r.Context()).id), zap.String("decision", refusal.ID), zap.String("code", refusal.Code))
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

// peer is the address that the connection comes from. Headers that claim another are not believed.
func peer(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
