package cloudsim

import (
	"cmp"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

type secret struct {
	ID, Name, Project, Creator, Type string
	payload                          []byte
	contentType                      string
	restricted                       bool // project-access is false
	readers                          []string
	aclSet                           bool
	consumers                        []map[string]string
	Created                          time.Time
	seq                              int64
}

const (
	maxPayload = 20000
	maxRequest = 25000
)

func barbicanError(code int, description string) map[string]any {
	return map[string]any{"code": code, "title": http.StatusText(code), "description": description}
}

func refuse(code int, description string) reply {
	return reply{status: code, body: barbicanError(code, description)}
}

func (c *Cloud) barbican(in *call, path []string) reply {
	if len(in.body) > maxRequest {
		return refuse(413, "Request body too large.")
	}
	if len(path) == 0 || path[0] != "secrets" {
		return refuse(404, "Not Found. Sorry but your object is in another castle.")
	}
	if len(path) == 1 {
		switch in.r.Method {
		case "GET":
			return c.listSecrets(in)
		case "POST":
			return c.createSecret(in)
		}
		return refuse(405, "Method Not Allowed")
	}
	s := c.secrets[path[1]]
	if s == nil || s.Project != in.project() && !slices.Contains(s.readers, in.tok.cred.UserID) {
		return refuse(404, "Not Found. Sorry but your secret is in another castle.")
	}
	owner := s.Creator == in.tok.cred.UserID
	switch sub := strings.Join(path[2:], "/"); in.r.Method + " " + sub {
	case "GET ":
		if !c.mayRead(in, s) && !in.tok.has("audit") {
			return refuse(403, "Secret retrieval attempt not allowed - please review your user/project privileges")
		}
		return reply{status: 200, body: showSecret(in, s)}
	case "GET payload":
		return c.readPayload(in, s)
	case "PUT ":
		return c.writePayload(in, s)
	case "DELETE ":
		if !c.mayChange(in, s) {
			return refuse(403, "Secret deletion attempt not allowed - please review your user/project privileges")
		}
		if len(s.consumers) > 0 && in.micro != "" && within(in.micro, "1.2", "1.99") && in.r.URL.Query().Get("force") != "true" {
			return refuse(400, "Secret has consumers")
		}
		delete(c.secrets, s.ID)
		return reply{status: 204}
	case "GET acl", "PUT acl":
		// The older default policy lets any creator of the project see and change the ACL of another's private secret.
		open := c.mayWrite(in) && s.Project == in.project()
		if c.cfg.BarbicanNewDefaults {
			open = s.Project == in.project() && (owner || in.tok.has("admin"))
		}
		if !open {
			return refuse(403, "SecretACL(s) retrieval attempt not allowed - please review your user/project privileges")
		}
		if in.r.Method == "PUT" {
			return c.writeACL(in, s)
		}
		return reply{status: 200, body: showACL(s)}
	case "GET consumers", "POST consumers", "DELETE consumers":
		return c.secretConsumers(in, s)
	}
	return refuse(405, "Method Not Allowed")
}

// mayWrite says whether the caller's roles allow storing and deleting.
func (c *Cloud) mayWrite(in *call) bool {
	if c.cfg.BarbicanNewDefaults {
		return in.tok.has("member", "admin")
	}
	return in.tok.has("creator", "admin")
}

// mayChange is mayWrite for one secret. Under the older default policy any creator of the project may delete another's
// private secret; under the newer one it is closed to all but its owner and administrators.
func (c *Cloud) mayChange(in *call, s *secret) bool {
	if s.Project != in.project() || !c.mayWrite(in) {
		return false
	}
	return !c.cfg.BarbicanNewDefaults || !s.restricted || s.Creator == in.tok.cred.UserID || in.tok.has("admin")
}

func (c *Cloud) mayRead(in *call, s *secret) bool {
	switch {
	case slices.Contains(s.readers, in.tok.cred.UserID), in.tok.has("admin") && s.Project == in.project():
		return true
	case s.Project != in.project():
		return false
	case s.restricted:
		return s.Creator == in.tok.cred.UserID
	}
	return c.mayWrite(in) || in.tok.has("observer")
}

func (in *call) secretRef(s *secret) string { return in.base + "/key-manager/v1/secrets/" + s.ID }

func showSecret(in *call, s *secret) map[string]any {
	stamp := s.Created.Format("2006-01-02T15:04:05")
	out := map[string]any{
		"secret_ref": in.secretRef(s), "name": s.Name, "status": "ACTIVE", "secret_type": s.Type, "created": stamp, "updated": stamp,
		"creator_id": s.Creator, "algorithm": nil, "bit_length": nil, "mode": nil, "expiration": nil, "consumers": s.consumers,
	}
	if len(s.payload) > 0 {
		out["content_types"] = map[string]string{"default": s.contentType}
	}
	return out
}

// like turns an SQL LIKE pattern into a regular expression.
func like(pattern string) *regexp.Regexp {
	q := regexp.QuoteMeta(pattern)
	q = strings.ReplaceAll(strings.ReplaceAll(q, "%", ".*"), "_", ".")
	return regexp.MustCompile("(?is)^" + q + "$")
}

func (c *Cloud) listSecrets(in *call) reply {
	if !c.mayWrite(in) && !in.tok.has("observer") {
		return refuse(403, "Secret(s) retrieval attempt not allowed - please review your user/project privileges")
	}
	q := in.r.URL.Query()
	var all []*secret
	for _, s := range c.secrets {
		if s.Project == in.project() && (!q.Has("name") || like(q.Get("name")).MatchString(s.Name)) {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b *secret) int { return cmp.Compare(a.seq, b.seq) })
	total := len(all)
	count, offset := 10, 0
	if n, err := strconv.Atoi(q.Get("limit")); err == nil && n > 0 {
		count = min(n, 100)
	}
	if n, err := strconv.Atoi(q.Get("offset")); err == nil && n > 0 {
		offset = min(n, total)
	}
	all = all[offset:min(offset+count, total)]
	out := []any{}
	for _, s := range all {
		out = append(out, showSecret(in, s))
	}
	return reply{status: 200, body: map[string]any{"secrets": out, "total": total}}
}

func (c *Cloud) createSecret(in *call) reply {
	if !c.mayWrite(in) {
		return refuse(403, "Secret creation attempt not allowed - please review your user/project privileges")
	}
	var req struct {
		Name    string  `json:"name"`
		Type    string  `json:"secret_type"`
		Payload *string `json:"payload"`
	}
	if !in.json(&req) {
		return refuse(400, "Request body is not valid JSON.")
	}
	types := []string{"", "opaque", "symmetric", "public", "private", "passphrase", "certificate"}
	if !slices.Contains(types, req.Type) || req.Payload != nil {
		// A payload in the first step is refused here, since siestad must never send one.
		return refuse(400, "Provided object does not match schema 'Secret'.")
	}
	mine := 0
	for _, s := range c.secrets {
		if s.Project == in.project() {
			mine++
		}
	}
	if most := limit(c.cfg.Quotas.Secrets, 100000); mine >= most {
		return refuse(403, "Quota reached for project "+in.project()+". Only "+strconv.Itoa(most)+" secrets are allowed.")
	}
	s := &secret{ID: newID(), Name: req.Name, Project: in.project(), Creator: in.tok.cred.UserID, Type: cmp.Or(req.Type, "opaque")}
	s.Created, s.seq = c.tick()
	c.secrets[s.ID] = s
	c.created["secret"]++
	return reply{status: 201, header: map[string]string{"Location": in.secretRef(s)}, body: map[string]any{"secret_ref": in.secretRef(s)}}
}

func (c *Cloud) writePayload(in *call, s *secret) reply {
	if !c.mayChange(in, s) {
		return refuse(403, "Secret payload retrieval attempt not allowed - please review your user/project privileges")
	}
	switch typ := in.r.Header.Get("Content-Type"); {
	case typ != "application/octet-stream" && typ != "text/plain":
		return refuse(415, "Content-Type of '"+typ+"' is not supported.")
	case len(s.payload) > 0:
		return refuse(409, "Secret already has data, cannot modify it.")
	case len(in.body) == 0:
		return refuse(400, "No data supplied to process.")
	case len(in.body) > maxPayload:
		return refuse(413, "Provided information too large to process")
	default:
		s.payload, s.contentType = in.body, typ
	}
	return reply{status: 204}
}

func (c *Cloud) readPayload(in *call, s *secret) reply {
	if !c.mayRead(in, s) {
		return refuse(403, "Secret payload retrieval attempt not allowed - please review your user/project privileges")
	}
	if len(s.payload) == 0 {
		return refuse(404, "Not Found. Sorry but your secret has no payload.")
	}
	if accept := in.r.Header.Get("Accept"); accept != s.contentType && accept != "*/*" {
		return refuse(406, "Secret payload cannot be retrieved in that form")
	}
	return reply{status: 200, raw: s.payload, header: map[string]string{"Content-Type": s.contentType}}
}

func showACL(s *secret) map[string]any {
	if !s.aclSet {
		return map[string]any{"read": map[string]any{"project-access": true}}
	}
	return map[string]any{"read": map[string]any{"project-access": !s.restricted, "users": append([]string{}, s.readers...)}}
}

func (c *Cloud) writeACL(in *call, s *secret) reply {
	var req struct {
		Read *struct {
			Users  []string `json:"users"`
			Access *bool    `json:"project-access"`
		} `json:"read"`
	}
	if !in.json(&req) || req.Read == nil {
		return refuse(400, "Provided object does not match schema 'ACL'.")
	}
	s.aclSet = true
	s.readers = req.Read.Users
	s.restricted = req.Read.Access != nil && !*req.Read.Access
	return reply{status: 200, body: map[string]any{"acl_ref": in.secretRef(s) + "/acl"}}
}

func (c *Cloud) secretConsumers(in *call, s *secret) reply {
	if in.r.Method == "GET" {
		return reply{status: 200, body: map[string]any{"consumers": s.consumers, "total": len(s.consumers)}}
	}
	if !c.mayChange(in, s) {
		return refuse(403, "Consumer creation attempt not allowed - please review your user/project privileges")
	}
	var req map[string]string
	if !in.json(&req) || req["service"] == "" || req["resource_type"] == "" || req["resource_id"] == "" {
		return refuse(400, "Provided object does not match schema 'Secret Consumer'.")
	}
	i := slices.IndexFunc(s.consumers, func(x map[string]string) bool {
		return x["service"] == req["service"] && x["resource_type"] == req["resource_type"] && x["resource_id"] == req["resource_id"]
	})
	if in.r.Method == "DELETE" {
		if i < 0 {
			return refuse(404, "Not Found. Sorry but your consumer is in another castle.")
		}
		s.consumers = slices.Delete(s.consumers, i, i+1)
		return reply{status: 200, body: showSecret(in, s)}
	}
	if i < 0 {
		s.consumers = append(s.consumers, req)
	}
	return reply{status: 200, body: showSecret(in, s)}
}
