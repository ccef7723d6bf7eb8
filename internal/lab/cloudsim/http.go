package cloudsim

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// reply is an answer before it is written, so that a fault can take it away.
type reply struct {
	status int
	body   any    // JSON
	raw    []byte // or bytes
	header map[string]string
}

// call is one request with what every handler needs. Handlers run under the cloud's lock.
type call struct {
	r     *http.Request
	tok   *token
	body  []byte
	micro string // the microversion asked for; empty: none
	base  string
}

func (c *call) project() string { return c.tok.cred.ProjectID }

// json decodes the body; false where it is not an object of that form.
func (c *call) json(out any) bool { return json.Unmarshal(c.body, out) == nil }

func newID() string { return uuid.NewString() }

func hexID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // does not fail
	return hex.EncodeToString(b)
}

// tick is a creation time no two things share.
func (c *Cloud) tick() (time.Time, int64) {
	c.seq++
	return time.Now().UTC(), c.seq
}

const maxJSON = 1 << 20

// ServeHTTP answers for all services, each under its own path: /identity, /compute, /volume, /network, /image,
// /key-manager.
func (c *Cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if c.cfg.Latency.API > 0 {
		time.Sleep(c.cfg.Latency.API)
	}
	segments := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	name := segments[0]
	fault := c.fault(name, r)
	if fault != nil && fault.Stall != nil {
		select {
		case <-fault.Stall:
		case <-r.Context().Done():
			return
		}
	}
	var answer reply
	switch {
	case fault != nil && fault.Status != 0:
		answer = reply{status: fault.Status, raw: []byte(fault.Body), header: fault.Header}
	default:
		answer = c.serve(name, segments[1:], r)
	}
	if fault != nil && fault.DropAnswer {
		if h, ok := w.(http.Hijacker); ok {
			if conn, _, err := h.Hijack(); err == nil {
				_ = conn.Close()
				return
			}
		}
		panic(http.ErrAbortHandler)
	}
	answer.write(w, name)
}

func (a reply) write(w http.ResponseWriter, service string) {
	for k, v := range a.header {
		w.Header().Set(k, v)
	}
	if service != "identity" && service != "key-manager" {
		w.Header().Set("X-Openstack-Request-Id", "req-"+newID())
	}
	out := a.raw
	if a.body != nil {
		var err error
		if out, err = json.Marshal(a.body); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	if w.Header().Get("Content-Type") == "" && len(out) > 0 {
		w.Header().Set("Content-Type", "application/json")
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(out)
}

func (c *Cloud) serve(name string, path []string, r *http.Request) reply {
	for len(path) > 0 && path[len(path)-1] == "" {
		path = path[:len(path)-1]
	}
	if name == "image" && r.Method == http.MethodPut && len(path) == 4 && path[3] == "file" {
		return c.upload(path[2], r) // its body is large, and is read outside the lock
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxJSON+1))
	if err != nil {
		return reply{status: http.StatusBadRequest}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	in := &call{r: r, body: body, base: "http://" + r.Host}
	if name == "identity" {
		return c.keystone(in, path)
	}
	if len(path) <= 1 {
		if doc, ok := c.versions(name, path); ok {
			return doc
		}
	}
	in.tok = c.tokens[r.Header.Get("X-Auth-Token")]
	if in.tok == nil {
		return reply{status: 401, body: keystoneError(401, "Unauthorized", "The request you have made requires authentication.")}
	}
	switch name {
	case "compute":
		if in.micro = r.Header.Get("X-Openstack-Nova-Api-Version"); in.micro != "" && !within(in.micro, "2.1", c.cfg.ComputeMax) {
			return reply{status: 406, body: failure("computeFault", 406, fmt.Sprintf("Version %s is not supported by the API. Minimum is 2.1 and maximum is %s.", in.micro, c.cfg.ComputeMax))}
		}
		return c.nova(in, path[1:])
	case "volume":
		if in.micro = strings.TrimPrefix(r.Header.Get("Openstack-Api-Version"), "volume "); in.micro != "" && !within(in.micro, "3.0", "3.70") {
			return reply{status: 406, body: failure("computeFault", 406, "Version "+in.micro+" is not supported by the API. Minimum is 3.0 and maximum is 3.70.")}
		}
		if len(path) < 2 || path[1] != in.project() {
			return reply{status: 400, body: failure("badRequest", 400, "Malformed request url")}
		}
		return c.cinder(in, path[2:])
	case "network":
		return c.neutron(in, path[1:])
	case "image":
		return c.glance(in, path[1:])
	case "key-manager":
		if in.micro = strings.TrimPrefix(r.Header.Get("Openstack-Api-Version"), "key-manager "); c.cfg.KeyManagerMax != "" && in.micro != "" && !within(in.micro, "1.0", c.cfg.KeyManagerMax) {
			return reply{status: 406, body: barbicanError(406, "Not Acceptable")}
		}
		return c.barbican(in, path[1:])
	}
	return reply{status: 404}
}

// versions answers the documents that need no token, in the form that each service gives them.
func (c *Cloud) versions(name string, path []string) (reply, bool) {
	entry := map[string]any{"status": "CURRENT"}
	switch name {
	case "compute":
		entry["id"], entry["version"], entry["min_version"] = "v2.1", c.cfg.ComputeMax, "2.1"
		if len(path) == 1 {
			return reply{status: 200, body: map[string]any{"version": entry}}, true
		}
		return reply{status: 200, body: map[string]any{"versions": []any{entry}}}, true
	case "volume":
		entry["id"], entry["version"], entry["min_version"] = "v3.0", "3.70", "3.0"
		status := 300
		if len(path) == 1 {
			status = 200
		}
		return reply{status: status, body: map[string]any{"versions": []any{entry}}}, true
	case "key-manager":
		if len(path) == 0 {
			entry["id"] = "v1"
			if c.cfg.KeyManagerMax != "" {
				entry["min_version"], entry["max_version"] = "1.0", c.cfg.KeyManagerMax
			}
			return reply{status: 300, body: map[string]any{"versions": map[string]any{"values": []any{entry}}}}, true
		}
	}
	return reply{}, false
}

func within(v, low, high string) bool {
	number := func(s string) int {
		major, minor, _ := strings.Cut(s, ".")
		a, err1 := strconv.Atoi(major)
		b, err2 := strconv.Atoi(minor)
		if err1 != nil || err2 != nil {
			return -1
		}
		return a*1000 + b
	}
	return number(v) >= number(low) && number(v) <= number(high)
}

// failure is an error body of Nova and Cinder.
func failure(key string, code int, message string) map[string]any {
	return map[string]any{key: map[string]any{"code": code, "message": message}}
}

// paged cuts a list as limit and marker of the query say.
func paged[T any](in *call, all []T, id func(T) string, most int) []T {
	if marker := in.r.URL.Query().Get("marker"); marker != "" {
		for i, x := range all {
			if id(x) == marker {
				all = all[i+1:]
				break
			}
		}
	}
	if n, err := strconv.Atoi(in.r.URL.Query().Get("limit")); err == nil && n > 0 && n < most {
		most = n
	}
	return all[:min(len(all), most)]
}

// Fault makes some requests go wrong.
type Fault struct {
	Service string         // first segment of the path; empty: any
	Method  string         // empty: any
	Path    *regexp.Regexp // nil: any; matched against the path without the service
	Skip    int            // let so many pass first
	Times   int            // then strike so often; 0: for ever

	Status     int // answer this instead of applying anything
	Body       string
	Header     map[string]string
	DropAnswer bool            // apply, then close the connection without an answer
	Stall      <-chan struct{} // wait for this before applying
}

// Inject adds a fault and returns how to remove it.
func (c *Cloud) Inject(f Fault) (remove func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, &f)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for i, g := range c.faults {
			if g == &f {
				c.faults = append(c.faults[:i:i], c.faults[i+1:]...)
				return
			}
		}
	}
}

// fault returns a copy of the first fault that strikes this request, and counts it.
func (c *Cloud) fault(service string, r *http.Request) *Fault {
	c.mu.Lock()
	defer c.mu.Unlock()
	rest := strings.TrimPrefix(r.URL.Path, "/"+service)
	for _, f := range c.faults {
		if f.Service != "" && f.Service != service || f.Method != "" && f.Method != r.Method || f.Path != nil && !f.Path.MatchString(rest) || f.Times < 0 {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				f.Times = -1 // spent
			}
		}
		strike := *f
		return &strike
	}
	return nil
}
