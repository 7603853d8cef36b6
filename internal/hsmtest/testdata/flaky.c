/* A PKCS #11 module before another one, FLAKY_MODULE. The file FLAKY_STATE says how it behaves: "well", "hang", where
   signatures wait, or "pull", where there is no token any more and its sessions have ended. */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "pkcs11go.h"

static CK_FUNCTION_LIST_PTR real;
static CK_FUNCTION_LIST list;
static CK_SLOT_ID used;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int pulled;

static char state(void)
{
	char c = 'w';
	int f = open(getenv("FLAKY_STATE"), O_RDONLY);
	if (f >= 0) {
		if (read(f, &c, 1) != 1)
			c = 'w';
		close(f);
	}
	return c;
}

/* gone reports whether the device is pulled, and ends its sessions when that is noticed first. */
static int gone(void)
{
	int now = state() == 'p';
	pthread_mutex_lock(&lock);
	if (now && !pulled)
		real->C_CloseAllSessions(used);
	pulled = now;
	pthread_mutex_unlock(&lock);
	return now;
}

static CK_RV get_slot_list(CK_BBOOL present, CK_SLOT_ID_PTR slots, CK_ULONG_PTR count)
{
	if (gone()) {
		*count = 0;
		return CKR_OK;
	}
	return real->C_GetSlotList(present, slots, count);
}

static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, CK_VOID_PTR app, CK_NOTIFY notify, CK_SESSION_HANDLE_PTR session)
{
	if (gone())
		return CKR_TOKEN_NOT_PRESENT;
	used = slot;
	return real->C_OpenSession(slot, flags, app, notify, session);
}

static CK_RV sign_init(CK_SESSION_HANDLE session, CK_MECHANISM_PTR mechanism, CK_OBJECT_HANDLE key)
{
	return gone() ? CKR_DEVICE_REMOVED : real->C_SignInit(session, mechanism, key);
}

static CK_RV sign(CK_SESSION_HANDLE session, CK_BYTE_PTR data, CK_ULONG size, CK_BYTE_PTR signature, CK_ULONG_PTR signature_size)
{
	while (state() == 'h')
		usleep(5000);
	return gone() ? CKR_DEVICE_REMOVED : real->C_Sign(session, data, size, signature, signature_size);
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR out)
{
	void *module = dlopen(getenv("FLAKY_MODULE"), RTLD_NOW | RTLD_LOCAL);
	CK_C_GetFunctionList get = module ? (CK_C_GetFunctionList)dlsym(module, "C_GetFunctionList") : NULL;
	if (!get || get(&real) != CKR_OK)
		return CKR_GENERAL_ERROR;
	list = *real;
	list.C_GetFunctionList = C_GetFunctionList;
	list.C_GetSlotList = get_slot_list;
	list.C_OpenSession = open_session;
	list.C_SignInit = sign_init;
	list.C_Sign = sign;
	*out = &list;
	return CKR_OK;
}
