package pgtest

// NewDatabase returns the URL of an empty database, for who is no test.
func (s *Server) NewDatabase() (string, error) {
	name, err := s.take()
	if err != nil {
		return "", err
	}
	return s.url(role, name), nil
}
