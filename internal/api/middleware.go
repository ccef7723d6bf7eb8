package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"mime"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/go-chi/chi/v5"
	"github.com/oklog/ulid/v2"
	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/audit"
)

const (
	maxBody       = 256 << 10
	requestHeader = "X-Request-Id"
)

// call is one request as the handlers see it.
type call struct {
	id     string
	who    caller
	method string
	path   string
	key    string // Idempotency-Key
	hash   [32]byte
	quiet  bool // a stranger's, at the guests' door: counted, and no line of the process's log

	conn    context.Context // ends when the caller has gone
	control *http.ResponseController
	until   time.Time // see deadline
}

func (c *call) actor() audit.Actor {
	return audit.Actor{Kind: audit.Kind(c.who.Kind), Subject: c.who.Subject, Name: c.who.name}
}

type callKey struct{}

// callOf returns the request's call. Every request has one: observe puts it there.
func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	if c == nil {
		return &call{id: "unknown"}
	}
	return c
}

// observe gives the request its id, bounds its time, counts it, logs it once, and turns a panic into a 500 without words.
func (s *Server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		c := &call{id: strings.ToLower(ulid.Make().String()), method: r.Method, path: r.URL.Path, conn: r.Context(), control: http.NewResponseController(w)}
		c.deadline(start.Add(answerIn))
		ctx, cancel := context.WithTimeout(context.WithValue(r.Context(), callKey{}, c), answerIn)
		defer cancel()
		header := w.Header()
		header.Set(requestHeader, c.id)
		header.Set("Cache-Control", "no-store")
		header.Set("X-Content-Type-Options", "nosniff")
		out := &recorder{ResponseWriter: w}
		r = r.WithContext(ctx)
		defer func() {
			v := recover()
			err, _ := v.(error)
			aborted := errors.Is(err, http.ErrAbortHandler)
			if v != nil && !aborted {
				s.cfg.Logger.Error("panic", zap.String("request", c.id), zap.ByteString("stack", debug.Stack()))
				if out.status == 0 {
					s.fail(out, r, kindInternal.because("The request could not be carried out."))
				}
			}
			pattern := chi.RouteContext(ctx).RoutePattern()
			took := time.Since(start)
			s.metrics.observe(r.Method, pattern, out.status, took)
			level := zap.InfoLevel
			if c.quiet {
				level = zap.DebugLevel
			}
			s.cfg.Logger.Log(level, "request", zap.String("request", c.id), zap.String("method", r.Method), zap.String("route", pattern),
				zap.Int("status", out.status), zap.Duration("took", took))
			if aborted {
				panic(v)
			}
		}()
		next.ServeHTTP(out, r)
	})
}

// recorder remembers the status.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

func (r *recorder) Flush() { _ = http.NewResponseController(r.ResponseWriter).Flush() }

// Unwrap serves http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// authenticate finds out who calls, before anything else of the request is looked at.
func (s *Server) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "Bearer") || len(r.Header.Values("Authorization")) != 1 {
			token = ""
		}
		who, err := s.tokens.verify(r.Context(), token)
		if err != nil {
			s.unauthorized(w, r, err)
			return
		}
		callOf(r.Context()).who = who
		next.ServeHTTP(w, r)
	})
}

func (s *Server) unauthorized(w http.ResponseWriter, r *http.Request, err error) {
	var bad tokenFault
	if !errors.As(err, &bad) {
		s.fail(w, r, err)
		return
	}
	s.refusals.count(badTokens, string(bad), 1)
	p := kindToken.because(sentence(bad.Error()))
	p.code, p.bearing = string(bad), "invalid_token"
	if bad == faultAbsent {
		p.detail, p.bearing = "There is no access token in the Authorization header.", ""
	}
	s.fail(w, r, p)
}

// limitRate keeps one caller from taking the service away from the others.
func (s *Server) limitRate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if wait := s.limiter.take(callOf(r.Context()).who.Subject); wait > 0 {
			p := kindRate.because("You have sent more requests than one caller may.")
			p.retry = int(math.Ceil(wait.Seconds()))
			s.fail(w, r, p)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// route is an operation of openapi.yaml with what admit needs to know of it.
type route struct {
	routers.Route
	upload  bool
	key     bool // Idempotency-Key is required
	match   bool // If-Match is required
	queries map[string]bool
}

// routesOf reads the operations. The validator compiles every schema of a 3.1 document anew for each request, which costs
// more than all the rest of it; what openapi.yaml uses of JSON Schema is the same in 3.0, whose validator keeps what it
// has compiled. TestMalformedRequests holds it to that.
func routesOf(document *openapi3.T) map[string]*route {
	older := *document
	older.OpenAPI = "3.0.3"
	older.Security = nil // authenticate has done it; the validator would read every body whole for it, an upload's too
	spec := &older
	routes := map[string]*route{}
	for path, item := range spec.Paths.Map() {
		for method, op := range item.Operations() {
			rt := &route{Route: routers.Route{Spec: spec, Path: path, PathItem: item, Method: method, Operation: op}, queries: map[string]bool{}}
			for _, p := range op.Parameters {
				switch {
				case p.Value.In == "query":
					rt.queries[p.Value.Name] = true
				case p.Value.Name == "Idempotency-Key":
					rt.key = true
				case p.Value.Name == "If-Match":
					rt.match = true
				}
			}
			rt.upload = op.RequestBody != nil && op.RequestBody.Value.Content.Get("application/octet-stream") != nil
			routes[method+" "+path] = rt
		}
	}
	return routes
}

// admit lets a request through to its handler once it is bounded, unambiguous and valid by openapi.yaml.
func (s *Server) admit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		context := chi.RouteContext(r.Context())
		rt, ok := s.routes[r.Method+" "+context.RoutePattern()]
		if !ok { // the tiles, whose paths OpenAPI cannot describe
			next.ServeHTTP(w, r)
			return
		}
		c := callOf(r.Context())
		if err := s.admitHeaders(r, rt, c); err != nil {
			s.fail(w, r, err)
			return
		}
		var body []byte
		if !rt.upload {
			var err error
			body, err = readBody(w, r, rt.Operation.RequestBody != nil)
			if err != nil {
				s.fail(w, r, err)
				return
			}
			c.hash = s.requestHash(body)
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		params := map[string]string{}
		for i, name := range context.URLParams.Keys {
			params[name] = context.URLParams.Values[i]
		}
		err := openapi3filter.ValidateRequest(r.Context(), &openapi3filter.RequestValidationInput{
			Request: r, PathParams: params, Route: &rt.Route,
			Options: &openapi3filter.Options{
				MultiError: true, ExcludeRequestBody: rt.upload || rt.Operation.RequestBody == nil, SkipSettingDefaults: true,
			},
		})
		if err != nil {
			s.malformed(w, r, err)
			return
		}
		if err := checkTexts(body); err != nil {
			s.fail(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) admitHeaders(r *http.Request, rt *route, c *call) error {
	for name := range r.URL.Query() {
		if !rt.queries[name] {
			p := kindMalformed.because("The query has a name that this operation does not know.")
			p.faults = []fault{{"query", "unknown name " + strconv.Quote(clip(name))}}
			return p
		}
	}
	if c.key = r.Header.Get("Idempotency-Key"); rt.key && c.key == "" {
		return kindNoKey.because("This request makes or changes something and has no Idempotency-Key.")
	}
	if rt.match && r.Header.Get("If-Match") == "" {
		return kindNoIfMatch.because("This request changes something and does not say which version of it.")
	}
	return nil
}

// readBody reads a JSON body whole. One that was not asked for may be empty or an empty object, nothing else.
func readBody(w http.ResponseWriter, r *http.Request, wanted bool) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		if errors.As(err, new(*http.MaxBytesError)) {
			return nil, kindTooLarge.because("The body has more than 256 KiB.")
		}
		return nil, kindMalformed.because("The body could not be read to its end.")
	}
	if !wanted {
		if trimmed := bytes.TrimSpace(body); len(trimmed) != 0 && !bytes.Equal(trimmed, []byte("{}")) {
			return nil, kindMalformed.because("This operation takes no body.")
		}
		return nil, nil
	}
	if len(body) == 0 {
		return nil, kindMalformed.because("The body is missing.")
	}
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return nil, kindMediaType.because("The body must be application/json.")
	}
	if err := checkJSON(body); err != nil {
		return nil, kindMalformed.because(sentence(err.Error()))
	}
	return body, nil
}

// malformed answers what the validator and the parameters' decoding complain about. It never repeats values: what was
// sent may be a secret in the wrong place.
func (s *Server) malformed(w http.ResponseWriter, r *http.Request, err error) {
	if p := (*problem)(nil); errors.As(err, &p) {
		s.fail(w, r, p)
		return
	}
	p := kindMalformed.because("The request does not follow openapi.yaml.")
	p.faults = faultsOf(err, "request")
	s.fail(w, r, p)
}

func faultsOf(err error, where string) []fault {
	var (
		many   openapi3.MultiError
		one    *openapi3filter.RequestError
		schema *openapi3.SchemaError
	)
	switch e := err.(type) { //nolint:errorlint // the tree is walked level by level, so that no fault is lost
	case openapi3.MultiError:
		many = e
		var all []fault
		for _, inner := range many {
			if all = append(all, faultsOf(inner, where)...); len(all) > 20 {
				return all[:20]
			}
		}
		return all
	case *openapi3filter.RequestError:
		one = e
		switch {
		case one.Parameter != nil:
			where = one.Parameter.In + " " + one.Parameter.Name
		case one.RequestBody != nil:
			where = "body"
		}
		if one.Err == nil {
			return []fault{{where, clip(one.Reason)}}
		}
		return faultsOf(one.Err, where)
	case *openapi3.SchemaError:
		schema = e
		if pointer := schema.JSONPointer(); len(pointer) > 0 {
			where += " /" + clip(strings.Join(pointer, "/"))
		}
		if schema.SchemaField == "pattern" && schema.Schema != nil && schema.Schema.Description != "" {
			return []fault{{where, schema.Schema.Description}} // the form in words
		}
		return []fault{{where, clip(schema.Reason)}}
	}
	return []fault{{where, "not of the form that openapi.yaml gives"}}
}

func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if unprintable(r) {
			return '.'
		}
		return r
	}, s)
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}

// fail answers with the problem of an error, and logs the error itself where the caller is not told it.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	c := callOf(r.Context())
	p := problemOf(err)
	if !p.open {
		s.cfg.Logger.Error("request failed", zap.String("request", c.id), zap.String("problem", p.slug), zap.Error(err))
	}
	header := w.Header()
	switch p.status {
	case http.StatusUnauthorized:
		challenge := `Bearer realm="siestad"`
		if p.bearing != "" {
			challenge += `, error="` + p.bearing + `"`
		}
		header.Set("WWW-Authenticate", challenge)
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		header.Set("Retry-After", strconv.Itoa(max(p.retry, 1)))
	}
	header.Set("Content-Type", "application/problem+json")
	header.Del("ETag")
	header.Del("Location")
	w.WriteHeader(p.status)
	_ = json.NewEncoder(w).Encode(p.view(c.id)) // the caller may be gone
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the caller may be gone
}
