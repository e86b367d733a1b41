/* base/own_file.c: see base/own_file.h. Between the look and the unlink a successor's file could
 * still take the name; no system call removes a name only if it leads to a given file. */
#include "base/own_file.h"

#include <sys/stat.h>
#include <unistd.h>

/* The file of the name itself: links are not followed. */
static bool look_at(const char *path, struct own_file *f)
{
    struct stat st;
    if (lstat(path, &st) != 0)
        return false;
    *f = (struct own_file){
        .path = path, .dev = st.st_dev, .ino = st.st_ino, .born = st.st_mtim};
    return true;
}

void own_file_note(struct own_file *f, const char *path)
{
    ASSERT(path != NULL);
    if (!look_at(path, f))
        f->path = NULL;
}

void own_file_remove(struct own_file *f)
{
    struct own_file now;
    if (f->path != NULL && look_at(f->path, &now) && now.dev == f->dev && now.ino == f->ino &&
        now.born.tv_sec == f->born.tv_sec && now.born.tv_nsec == f->born.tv_nsec)
        unlink(f->path);
    f->path = NULL;
}
