package cloudsim

import "time"

type token struct {
	cred    *Credential
	expires time.Time
}

func (t *token) has(roles ...string) bool {
	for _, want := range roles {
		for _, r := range t.cred.Roles {
			if r == want {
				return true
			}
		}
	}
	return false
}

func keystoneError(code int, title, message string) map[string]any {
	return map[string]any{"error": map[string]any{"code": code, "title": title, "message": message}}
}

func (c *Cloud) keystone(in *call, path []string) reply {
	if len(path) == 0 || path[0] != "v3" {
		return reply{status: 404, body: keystoneError(404, "Not Found", "Could not find the requested resource.")}
	}
	if len(path) == 3 && path[1] == "auth" && path[2] == "tokens" && in.r.Method == "POST" {
		return c.authenticate(in)
	}
	return reply{status: 404, body: keystoneError(404, "Not Found", "The resource could not be found.")}
}

func (c *Cloud) authenticate(in *call) reply {
	var req struct {
		Auth struct {
			Identity struct {
				Methods    []string `json:"methods"`
				Credential struct {
					ID     string `json:"id"`
					Secret string `json:"secret"`
				} `json:"application_credential"`
			} `json:"identity"`
			Scope any `json:"scope"`
		} `json:"auth"`
	}
	if !in.json(&req) || len(req.Auth.Identity.Methods) != 1 {
		return reply{status: 400, body: keystoneError(400, "Bad Request", "Expecting to find auth in request body.")}
	}
	refused := reply{status: 401, body: keystoneError(401, "Unauthorized", "The request you have made requires authentication.")}
	if req.Auth.Identity.Methods[0] != "application_credential" || req.Auth.Scope != nil {
		return refused
	}
	cr := c.creds[req.Auth.Identity.Credential.ID]
	if cr == nil {
		return reply{status: 404, body: keystoneError(404, "Not Found", "Could not find Application Credential: "+req.Auth.Identity.Credential.ID+".")}
	}
	if cr.Secret != req.Auth.Identity.Credential.Secret {
		return refused
	}
	now := time.Now().UTC()
	t := &token{cred: cr, expires: now.Add(time.Hour)}
	id := "gAAAAA" + hexID() + hexID()
	c.tokens[id] = t
	c.created["token"]++
	domain := map[string]any{"id": "default", "name": "Default"}
	var roles []any
	for _, r := range cr.Roles {
		roles = append(roles, map[string]any{"id": "role-" + r, "name": r})
	}
	cred := map[string]any{"id": cr.ID, "name": cr.UserName, "restricted": true}
	if cr.AccessRules {
		cred["access_rules"] = []any{map[string]any{"service": "compute", "method": "GET", "path": "/v2.1/**"}}
	}
	return reply{status: 201, header: map[string]string{"X-Subject-Token": id}, body: map[string]any{"token": map[string]any{
		"methods":                []string{"application_credential"},
		"user":                   map[string]any{"id": cr.UserID, "name": cr.UserName, "domain": domain},
		"project":                map[string]any{"id": cr.ProjectID, "name": c.projects[cr.ProjectID].Name, "domain": domain},
		"roles":                  roles,
		"expires_at":             t.expires.Format("2006-01-02T15:04:05.000000Z"),
		"issued_at":              now.Format("2006-01-02T15:04:05.000000Z"),
		"application_credential": cred,
		"catalog":                c.catalogFor(in.base, cr.ProjectID),
	}}}
}

// catalogFor writes the endpoints as Debian's packages register them: some with a version, some without.
func (c *Cloud) catalogFor(base, project string) []any {
	var out []any
	for _, s := range []struct{ typ, name, path string }{
		{"identity", "keystone", "/identity/v3/"},
		{"compute", "nova", "/compute/v2.1"},
		{"volumev3", "cinderv3", "/volume/v3/" + project},
		{"network", "neutron", "/network"},
		{"image", "glance", "/image"},
		{"key-manager", "barbican", "/key-manager"},
	} {
		url := base + s.path
		if other := c.catalog[s.typ]; other != "" {
			url = other
		}
		out = append(out, map[string]any{"id": s.name, "type": s.typ, "name": s.name, "endpoints": []any{
			map[string]any{"id": s.name + "-public", "interface": "public", "region": c.cfg.Region, "region_id": c.cfg.Region, "url": url},
			map[string]any{"id": s.name + "-internal", "interface": "internal", "region": c.cfg.Region, "region_id": c.cfg.Region, "url": url},
		}})
	}
	return out
}
