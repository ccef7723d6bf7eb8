package kbs

import "strings"

const (
	maxPath     = 1024
	maxSegment  = 255
	maxSegments = 16
)

// Path is the part of a request's path behind Prefix.
type Path struct {
	// Plugin is the first segment.
	Plugin   string
	Segments []string
	// Collapsed says that slashes stood in a row. trustee-attester writes such
	// paths (resource//a/b/c); they name what the path without them names.
	Collapsed bool
}

// ParsePath reads a path as it stands in the request line (EscapedPath, without
// the query), before any decoding of percent signs: no segment may hold one. Its
// error is an *Error.
func ParsePath(path string) (Path, error) {
	rest, ok := strings.CutPrefix(path, Prefix)
	if !ok || len(path) > maxPath || rest != "" && rest[0] != '/' {
		return Path{}, InvalidPath()
	}
	var p Path
	for i, s := range strings.Split(rest, "/") {
		switch {
		case s == "":
			p.Collapsed = p.Collapsed || i > 0 && rest != "/"
			continue
		case p.Plugin == "":
			p.Plugin = s
		case len(p.Segments) == maxSegments || !validSegment(s):
			return Path{}, InvalidPath()
		default:
			p.Segments = append(p.Segments, s)
		}
	}
	if !validSegment(p.Plugin) {
		return Path{}, PluginNotFound(p.Plugin)
	}
	return p, nil
}

// validSegment: [a-zA-Z0-9_-]+[a-zA-Z0-9_.-]*, so never ".", ".." or empty.
func validSegment(s string) bool {
	if s == "" || len(s) > maxSegment || s[0] == '.' {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-', c == '.':
		default:
			return false
		}
	}
	return true
}

// Resource names a secret.
type Resource struct{ Repository, Type, Tag string }

// ParseResource reads "repository/type/tag".
func ParseResource(name string) (Resource, error) {
	return Path{Plugin: "resource", Segments: strings.Split(name, "/")}.Resource()
}

// Resource is what a path of the plugin resource names: three segments, no more.
// Its error is an *Error.
func (p Path) Resource() (Resource, error) {
	if p.Plugin != "resource" {
		return Resource{}, PluginNotFound(p.Plugin)
	}
	if len(p.Segments) != 3 {
		return Resource{}, InvalidPath()
	}
	for _, s := range p.Segments {
		if !validSegment(s) {
			return Resource{}, InvalidPath()
		}
	}
	return Resource{Repository: p.Segments[0], Type: p.Segments[1], Tag: p.Segments[2]}, nil
}

func (r Resource) String() string { return r.Repository + "/" + r.Type + "/" + r.Tag }
