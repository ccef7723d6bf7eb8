package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/kbs"
	"github.com/eosc-siesta/siestad/internal/keybroker"
)

// Attestations is what the API needs of *keybroker.Broker for stock clients and for tokens.
type Attestations interface {
	OpenSession(ctx context.Context, req kbs.Request, peer string) (keybroker.Session, error)
	AttestSession(ctx context.Context, cookie string, body []byte, peer string) (token string, err error)
	SessionSecret(ctx context.Context, who keybroker.Bearer, r kbs.Resource, peer string) (jwe []byte, err error)
	Attest(ctx context.Context, req door.GrantRequest, peer string) (token string, err error)
	// JWKS is nil where there are no tokens.
	JWKS() []byte
}

// The door of stock clients. Bodies are parsed by package kbs; whom to believe is the broker's business.

const (
	kbsBusy    = 2 * time.Second
	kbsRate    = 5 * time.Second
	kbsOutage  = 30 * time.Second
	kbsTooLate = 10 * time.Second
)

func (s *Server) kbsRoutes(r chi.Router) {
	r.Post("/kbs/v0/auth", s.kbsAuth)
	r.Post("/kbs/v0/attest", s.kbsAttest)
	r.Get("/kbs/v0/resource/{repository}/{type}/{tag}", s.kbsResource)
}

// collapse takes out the slashes in a row that some clients write, before the path is routed.
func (s *Server) collapse(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isKBS(r) && strings.Contains(r.URL.Path, "//") {
			s.cfg.Logger.Debug("slashes in a row", zap.String("request", callOf(r.Context()).id))
			for strings.Contains(r.URL.Path, "//") {
				r.URL.Path = strings.ReplaceAll(r.URL.Path, "//", "/")
			}
			r.URL.RawPath = ""
		}
		next.ServeHTTP(w, r)
	})
}

func isKBS(r *http.Request) bool {
	return r.URL.Path == kbs.Prefix || strings.HasPrefix(r.URL.Path, kbs.Prefix+"/")
}

// kbsElsewhere answers for the paths and methods under the prefix that this door has not, as clients of it can read.
func (s *Server) kbsElsewhere(w http.ResponseWriter, r *http.Request) {
	path, err := kbs.ParsePath(r.URL.EscapedPath())
	if err == nil {
		if _, err = path.Resource(); err == nil {
			err = &kbs.Error{Variant: "InvalidRequestPath", Status: http.StatusMethodNotAllowed, Detail: "Request method is not allowed"}
		}
	}
	s.kbsFail(w, r, err)
}

func (s *Server) kbsAuth(w http.ResponseWriter, r *http.Request) {
	body, ok := s.kbsBody(w, r, kbs.MaxAuthBody)
	if !ok {
		return
	}
	req, err := kbs.ParseRequest(body)
	if err != nil {
		s.countUnreadable(r)
		s.kbsFail(w, r, err)
		return
	}
	session, err := s.cfg.Attestations.OpenSession(r.Context(), req, peer(r))
	if err != nil {
		s.kbsFail(w, r, s.kbsError(r, err, kbs.AuthFailed, func(string) *kbs.Error { return kbs.AuthFailed(nil) }))
		return
	}
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // Secure wherever there is TLS; a development client over plain HTTP would lose the cookie
		Name: kbs.Cookie, Value: session.Cookie, Path: kbs.Prefix, Expires: session.ExpiresAt,
		HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: r.TLS != nil,
	})
	kbsAnswer(w, http.StatusOK, session.Challenge.JSON())
}

func (s *Server) kbsAttest(w http.ResponseWriter, r *http.Request) {
	cookie := kbsCookie(r)
	if cookie == "" {
		s.countUnreadable(r)
		s.kbsFail(w, r, kbs.AttestFailed(errors.New("no session's cookie")))
		return
	}
	body, ok := s.kbsBody(w, r, kbs.MaxAttestBody)
	if !ok {
		return
	}
	token, err := s.cfg.Attestations.AttestSession(r.Context(), cookie, body, peer(r))
	if err != nil {
		s.kbsFail(w, r, s.kbsError(r, err, kbs.AttestFailed, kbs.AttestRefused))
		return
	}
	kbsAnswer(w, http.StatusOK, kbs.TokenJSON(token))
}

func (s *Server) kbsResource(w http.ResponseWriter, r *http.Request) {
	path, err := kbs.ParsePath(r.URL.EscapedPath())
	if err != nil {
		s.countUnreadable(r)
		s.kbsFail(w, r, err)
		return
	}
	resource, err := path.Resource()
	if err != nil {
		s.countUnreadable(r)
		s.kbsFail(w, r, err)
		return
	}
	who := keybroker.Bearer{Cookie: kbsCookie(r)}
	missing := func(error) *kbs.Error { return kbs.TokenNotFound() }
	if who.Cookie == "" {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "Bearer") || token == "" || len(r.Header.Values("Authorization")) != 1 {
			s.kbsFail(w, r, kbs.TokenNotFound()) // which starts the handshake
			return
		}
		who.Token, missing = token, kbs.TokenRefused
	}
	sealed, err := s.cfg.Attestations.SessionSecret(r.Context(), who, resource, peer(r))
	if err != nil {
		s.kbsFail(w, r, s.kbsError(r, err, missing, kbs.PolicyDenied))
		return
	}
	kbsAnswer(w, http.StatusOK, sealed)
}

// kbsCookie is the session's cookie, "" unless there is exactly one and it has the form of ours.
func kbsCookie(r *http.Request) string {
	list := r.CookiesNamed(kbs.Cookie)
	if len(list) != 1 || !kbs.ValidSession(list[0].Value) {
		return ""
	}
	return list[0].Value
}

func (s *Server) kbsBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, bool) {
	body, err := door.ReadBody(http.MaxBytesReader(w, r.Body, limit), r.ContentLength)
	if err != nil {
		if errors.As(err, new(*http.MaxBytesError)) {
			err = kbs.TooLarge()
		} else {
			err = kbs.AuthFailed(errors.New("the body could not be read to its end"))
		}
		s.countUnreadable(r)
		s.kbsFail(w, r, err)
		return nil, false
	}
	return body, true
}

// kbsError finds the answer to an error of the broker. again is what a client hears whom a new handshake could help,
// denied what stops it; a denied guest is told the decision's id and nothing else.
func (s *Server) kbsError(r *http.Request, err error, again func(error) *kbs.Error, denied func(string) *kbs.Error) error {
	var own *kbs.Error
	var refusal *keybroker.Refusal
	switch {
	case errors.As(err, &own):
		s.metrics.refused.WithLabelValues(attest.CodeFormat).Inc()
		return own
	case errors.As(err, &refusal):
		s.metrics.refused.WithLabelValues(refusal.Code).Inc()
		level := zap.InfoLevel
		if refusal.Counted {
			level, callOf(r.Context()).quiet = zap.DebugLevel, true
		}
		s.cfg.Logger.Log(level, "guest refused", zap.String("request", callOf(r.Context()).id), zap.String("decision", refusal.ID), zap.String("code", refusal.Code))
		switch refusal.Code {
		case keybroker.CodeRate:
			return kbs.TooMany(kbsRate)
		case keybroker.CodeNonce:
			return again(err)
		case attest.CodeCollateral: // ours or the vendor's to bring
			return kbs.Unavailable(kbsOutage, err)
		}
		return denied(refusal.ID)
	case errors.Is(err, keybroker.ErrNoSession):
		s.metrics.refused.WithLabelValues(keybroker.CodeNonce).Inc()
		return again(err)
	case errors.Is(err, keybroker.ErrNoSecret):
		s.metrics.refused.WithLabelValues(keybroker.CodeSecret).Inc()
		s.cfg.Logger.Info("no such secret", zap.String("request", callOf(r.Context()).id), zap.Error(err))
		return kbs.ResourceAbsent()
	case errors.Is(err, keybroker.ErrBusy):
		return kbs.Unavailable(kbsBusy, err)
	}
	return kbs.Unavailable(kbsTooLate, err)
}

// kbsFail answers in the words of the protocol. What is our own fault is logged with its cause, which nobody is told.
func (s *Server) kbsFail(w http.ResponseWriter, r *http.Request, err error) {
	var e *kbs.Error
	if !errors.As(err, &e) {
		e = kbs.Unavailable(kbsTooLate, err)
	}
	level := zap.DebugLevel
	if e.Status == http.StatusServiceUnavailable {
		level = zap.WarnLevel
	}
	s.cfg.Logger.Log(level, "answer to a stock client", zap.String("request", callOf(r.Context()).id), zap.Int("status", e.Status), zap.Error(e))
	if e.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(e.RetryAfter.Seconds())))
	}
	if e.Status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", http.MethodGet)
	}
	kbsAnswer(w, e.Status, e.JSON())
}

func kbsAnswer(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) //nolint:gosec // JSON, said to be so, and sniffed by nobody; the guest may be gone
}

// attestation is POST /v1/attestations, of the native door.
func (s *Server) attestation(w http.ResponseWriter, r *http.Request) {
	body, ok := s.doorBody(w, r, door.MaxGrantRequest)
	if !ok {
		return
	}
	req, err := door.DecodeGrantRequest(body)
	if err != nil {
		s.unreadable(w, r, kindMalformed.because(sentence(err.Error())))
		return
	}
	token, err := s.cfg.Attestations.Attest(r.Context(), req, peer(r))
	if errors.Is(err, keybroker.ErrNoTokens) {
		s.fail(w, r, kindNotFound.because("This service gives no tokens."))
		return
	}
	s.doorAnswer(w, r, struct {
		Token string `json:"token"`
	}{token}, err)
}

// jwks is GET /v1/jwks, for whoever gets a token shown.
func (s *Server) jwks(w http.ResponseWriter, r *http.Request) {
	set := s.cfg.Attestations.JWKS()
	if set == nil {
		s.fail(w, r, kindNotFound.because("This service gives no tokens."))
		return
	}
	w.Header().Set("Content-Type", "application/jwk-set+json")
	w.Header().Set("Cache-Control", "public, max-age=60")
	_, _ = w.Write(set) // the caller may be gone
}
