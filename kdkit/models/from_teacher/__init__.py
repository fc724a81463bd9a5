"""Students made from the teacher: parts of it kept, joined or shared."""
