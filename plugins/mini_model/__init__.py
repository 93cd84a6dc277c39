"""`mini`: a language model of about a million parameters, trained to have the classic heads."""
