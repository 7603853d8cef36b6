package stepca

// syncDir has nothing to do: a directory cannot be flushed.
func syncDir(string) error { return nil }
