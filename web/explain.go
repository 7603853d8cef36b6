package web

import (
	"net/http"

	"github.com/pkid/pkid/client"
)

// postExplain says why a resource server would refuse a request.
func (s *Server) postExplain(w http.ResponseWriter, r *http.Request) error {
	in, err := decode[client.Presented](r)
	if err != nil {
		return err
	}
	if err := in.Complete(); err != nil {
		return refuse(badRequest, "%v", err)
	}
	presented, err := in.Request(r.Context())
	if err != nil {
		return refuse(badRequest, "%v", err)
	}
	out, err := s.c.Explain(in, presented)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, out)
}
